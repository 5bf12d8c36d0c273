-- Corners of the index access methods: operator classes of other shapes, places in the middle of lists and pages,
-- tables that were planned for more rows than they have, unlogged tables that become logged.

-- What this file is about alone: the images of the heap pages would be most of the WAL.
set wal_consistency_checking = 'hash, gin, gist, spgist, brin'

-- Hash: hundreds of buckets from the start, in one step and in quarter steps.
create table hash_planned as select generate_series(1, 10) id

update pg_class set relpages = 1, reltuples = 20400 where relname = 'hash_planned'

create index on hash_planned using hash (id) with (fillfactor = 10)

update pg_class set relpages = 1, reltuples = 45000 where relname = 'hash_planned'

create index on hash_planned using hash (id) with (fillfactor = 10)

-- Chains of overflow pages that are squeezed, freed and used again.
create table hash_chains (id int, bucket int) with (autovacuum_enabled = off)

create index on hash_chains using hash (bucket)

-- Without images: what they leave is compared later.
set wal_consistency_checking = ''

insert into hash_chains select i, i % 3 from generate_series(1, 4500) i

set wal_consistency_checking = 'hash, gin, gist, spgist, brin'

delete from hash_chains where id % 4 <> 0

vacuum hash_chains

insert into hash_chains select i, i % 4 from generate_series(5001, 9000) i

delete from hash_chains where id % 7 in (1, 2, 3)

vacuum hash_chains

delete from hash_chains where bucket <> 2

vacuum hash_chains

insert into hash_chains select i, 2 from generate_series(9001, 10500) i

-- GIN: one key in all rows. The posting tree loses whole pages; later rows go to its end.
set wal_consistency_checking = ''

create table gin_tree (id int, tags int[]) with (autovacuum_enabled = off)

insert into gin_tree select i, array[1] from generate_series(1, 40000) i

set wal_consistency_checking = 'hash, gin, gist, spgist, brin'

create index on gin_tree using gin (tags) with (fastupdate = off)

delete from gin_tree where id between 4000 and 36000

vacuum gin_tree

insert into gin_tree select i, array[1] from generate_series(40001, 40500) i

select txid_current()

vacuum gin_tree

-- Rows in places of the heap that were freed go into the middle of posting lists.
create table gin_middle (id int, tags int[]) with (autovacuum_enabled = off)

insert into gin_middle select i, array[i % 3] from generate_series(1, 12000) i

create index on gin_middle using gin (tags) with (fastupdate = off)

delete from gin_middle where id % 9 = 0

vacuum gin_middle

insert into gin_middle select i, array[i % 3] from generate_series(1, 1000) i

delete from gin_middle where id % 13 in (1, 4, 7)

vacuum gin_middle

insert into gin_middle select i, array[i % 4] from generate_series(1, 2000) i

-- Long keys: entry pages with few tuples, so that inner pages split as well.
create table gin_long (id int, keys text[]) with (autovacuum_enabled = off)

create index on gin_long using gin (keys) with (fastupdate = off)

insert into gin_long select i, array[md5((i * 7 % 900)::text) || repeat('k', 1500)] from generate_series(1, 900) i

delete from gin_long where id % 3 = 0

vacuum gin_long

-- Pending lists of documents: rows of several pages, rows without keys.
create table gin_pending (id int, doc jsonb, body tsvector) with (autovacuum_enabled = off)

create index on gin_pending using gin (doc) with (gin_pending_list_limit = 128)

create index on gin_pending using gin (body)

create index on gin_pending using gin (doc jsonb_path_ops)

insert into gin_pending select i, jsonb_build_object('a', i % 10, 'b', jsonb_build_array(i, i % 7)), to_tsvector('simple', 'alpha w' || i % 60) from generate_series(1, 700) i

insert into gin_pending select i, null, to_tsvector('simple', (select string_agg('t' || (i * g) % 3001, ' ') from generate_series(1, 400) g)) from generate_series(2001, 2030) i

insert into gin_pending select i, '{}', null from generate_series(3001, 3100) i

vacuum gin_pending

delete from gin_pending where id < 500

vacuum gin_pending

-- GiST: wide keys, of which a page holds few: one insert splits it into more than two.
create table gist_wide (id int, area box, poly polygon, vec tsvector) with (autovacuum_enabled = off)

create index on gist_wide using gist (area)

create index on gist_wide using gist (poly)

create index on gist_wide using gist (vec tsvector_ops (siglen = 900))

insert into gist_wide select i, box(point(i % 97, i % 89), point(i % 97 + i % 5, i % 89 + 3)), polygon(i % 7 + 3, circle(point(i, i % 40), 5)), to_tsvector('simple', 'w' || i || ' ' || (select string_agg('x' || (g * i) % 511, ' ') from generate_series(1, i % 120) g)) from generate_series(1, 700) i

insert into gist_wide values (0, null, null, null)

delete from gist_wide where id % 3 <> 1

vacuum gist_wide

-- SP-GiST: inner tuples with long prefixes fill their pages; more nodes make them move, to other pages and to that of
-- their parent; prefixes that end early split them.
create table spgist_prefixes (id int, word text) with (autovacuum_enabled = off)

create index on spgist_prefixes using spgist (word)

insert into spgist_prefixes select p * 1000 + i, repeat(md5(p::text), 14) || chr(97 + i % 3) || md5(i::text) from generate_series(1, 30) p, generate_series(1, 45) i

insert into spgist_prefixes select p * 1000 + i, repeat(md5(p::text), 14) || chr(33 + i) || i from generate_series(1, 30) p, generate_series(1, 60) i

insert into spgist_prefixes select p, left(repeat(md5(p::text), 14), 32 * (p % 13 + 1)) || '?' from generate_series(1, 30) p

insert into spgist_prefixes select p, null from generate_series(1, 100) p

delete from spgist_prefixes where id % 3 = 0 or word is null

vacuum spgist_prefixes

select txid_current()

vacuum spgist_prefixes

insert into spgist_prefixes select p * 1000 + i, repeat(md5(p::text), 14) || chr(93 + i) || i from generate_series(1, 30) p, generate_series(1, 20) i

create table spgist_shapes (id int, box box, net inet, span int4range, poly polygon) with (autovacuum_enabled = off)

create index on spgist_shapes using spgist (box)

create index on spgist_shapes using spgist (net)

create index on spgist_shapes using spgist (span) include (id)

create index on spgist_shapes using spgist (poly)

insert into spgist_shapes select i, box(point(i % 97, i % 89), point(i % 97 + i % 5, i % 89 + 3)), ('10.' || i % 251 || '.' || (i * 7) % 253 || '.' || i % 13)::inet, int4range(i % 1000, i % 1000 + i % 77), polygon(5, circle(point(i % 77, i % 91), 3)) from generate_series(1, 1000) i

insert into spgist_shapes select i, null, ('2001:db8::' || to_hex(i))::inet, 'empty', null from generate_series(2501, 2800) i

delete from spgist_shapes where id % 5 in (0, 1, 3)

vacuum spgist_shapes

insert into spgist_shapes select i, box(point(i % 9, i % 8), point(i % 9 + 1, 30)), ('192.168.' || i % 20 || '.' || i % 200)::inet, int4range(i, i + 3), polygon(4, circle(point(i % 7, i % 9), 3)) from generate_series(3201, 3600) i

-- BRIN: summaries of several shapes; more ranges than one page of the map has, so that summaries have to leave a page.
create table brin_far (id int, word text) with (autovacuum_enabled = off, fillfactor = 10)

create index brin_far_id on brin_far using brin (id int4_minmax_multi_ops (values_per_range = 16)) with (pages_per_range = 1)

create index brin_far_word on brin_far using brin (word) with (pages_per_range = 1)

create index brin_far_bloom on brin_far using brin (word text_bloom_ops (n_distinct_per_range = 200)) with (pages_per_range = 4)

create index on brin_far using brin (int4range(id, id + 5) range_inclusion_ops) with (pages_per_range = 2)

insert into brin_far select i, 'v' || i % 50 || repeat('q', i % 300) from generate_series(1, 2000) i

vacuum brin_far

select brin_desummarize_range('brin_far_id', b), brin_desummarize_range('brin_far_word', b), brin_desummarize_range('brin_far_bloom', b) from generate_series(0, 120, 3) b

-- Most summaries without images, as above.
set wal_consistency_checking = ''

insert into brin_far select i, 'v' || i % 50 || repeat('q', 200 + i % 200) from generate_series(2001, 7000) i

vacuum brin_far

set wal_consistency_checking = 'hash, gin, gist, spgist, brin'

update brin_far set word = repeat(chr(33 + id % 60), 250 + id % 50) where id % 11 = 0

-- Unlogged tables that become logged: their indexes are logged as whole pages, then as changes of them.
create unlogged table was_unlogged (id int, at point, tags int[], word text)

create index on was_unlogged using hash (id)

create index on was_unlogged using gin (tags)

create index on was_unlogged using gist (at)

create index on was_unlogged using spgist (word)

create index on was_unlogged using brin (id) with (pages_per_range = 1)

insert into was_unlogged select i, point(i % 101, i % 103), array[i, i % 3], 'word ' || i from generate_series(1, 600) i

alter table was_unlogged set logged

insert into was_unlogged select i, point(i % 101, i % 103), array[i, i % 3], 'word ' || i from generate_series(601, 1200) i

vacuum was_unlogged

set wal_consistency_checking = 'all'

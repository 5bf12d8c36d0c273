-- BRIN: summaries that grow in place and move, revmap pages, ranges that lose their summary.

-- What this file is about alone: the images of the heap pages would be most of the WAL.
set wal_consistency_checking = 'brin, generic'

create table br (a int, t text)

create index br_a on br using brin (a) with (pages_per_range = 1, autosummarize = off)

create index br_t on br using brin (t) with (pages_per_range = 2)

insert into br select i, repeat('b', 500) || i from generate_series(1, 3000) i

select brin_summarize_new_values('br_a')

select brin_summarize_new_values('br_t')

insert into br select i, repeat('c', 600) || i from generate_series(3001, 4500) i

vacuum br

update br set a = a + 100000 where a % 50 = 0

update br set t = repeat('zz', 400) where a % 40 = 3

update br set t = repeat('aa', 900) where a % 60 = 7

select brin_desummarize_range('br_a', 3)

select brin_desummarize_range('br_a', 5)

select brin_summarize_range('br_a', 3)

create table brlong (t text)

create index brlong_t on brlong using brin (t) with (pages_per_range = 1)

insert into brlong select 'm' from generate_series(1, 5000) i

select brin_summarize_new_values('brlong_t')

-- Longer summaries do not fit where the short ones were.
update brlong set t = repeat('n', 1000) where ctid in (select min(ctid) from brlong group by (ctid::text::point)[0])

update brlong set t = repeat('l', 1800) where ctid in (select max(ctid) from brlong group by (ctid::text::point)[0])

vacuum brlong

-- More ranges than the first page of the revmap has room for.
create table brwide (a int, pad text) with (fillfactor = 10)

alter table brwide alter pad set storage plain

insert into brwide select i, repeat('p', 700) from generate_series(1, 1500) i

create index brwide_a on brwide using brin (a) with (pages_per_range = 1)

insert into brwide select i, repeat('p', 700) from generate_series(1501, 1700) i

vacuum brwide

create index on br using brin (a int4_bloom_ops)

create index on br using brin (a int4_minmax_multi_ops)

create extension bloom

create table bl (a int, b int)

create index bl_i on bl using bloom (a, b)

insert into bl select i, i % 10 from generate_series(1, 1500) i

delete from bl where a % 2 = 0

vacuum bl

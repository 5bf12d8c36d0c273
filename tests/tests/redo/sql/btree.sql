-- B-trees: growth, splits of both kinds, posting lists, deletion of rows and of pages, and their reuse.

-- What this file is about alone: the images of the heap pages would be most of the WAL.
set wal_consistency_checking = 'btree'

create table bt (a int, b text, c int)

create index bt_a on bt (a); create index bt_b on bt (b); create index bt_c on bt (c)

-- Rising keys split right pages, falling ones left ones, random ones in the middle; equal ones make posting lists.
insert into bt select i, md5(i::text), i % 7 from generate_series(1, 4000) i

insert into bt select -i, md5((-i)::text), i % 5 from generate_series(1, 1500) i

insert into bt select (i * 7919) % 4000, md5((i * 31)::text), 3 from generate_series(1, 1500) i

-- Wide keys: a tree of three levels, and posting lists split by inserts between their rows.
create table btw (k text)

create index btw_k on btw (k)

insert into btw select lpad((i * 7919 % 5000)::text, 10, '0') || repeat('k', 700) from generate_series(1, 1500) i

-- A page of duplicates that an update adds versions to: deduplication, bottom-up deletion.
create table btd (a int primary key, b int, c text)

create index btd_b on btd (b)

create index btd_c on btd (c)

insert into btd select i, i % 3, 'same' from generate_series(1, 2000) i

update btd set b = b + 1 where a % 2 = 0

update btd set b = b + 1 where a % 2 = 0

update btd set b = b + 1, c = 'same' where a % 3 = 0

-- Rows that are dead and marked so when an index scan meets them, and then an insert that wants room.
set enable_seqscan = off; set enable_bitmapscan = off

create table btk (a int, b int)

create index btk_a on btk (a)

insert into btk select i, 0 from generate_series(1, 400) i

delete from btk where a between 1 and 350

select count(*) from btk where a between 1 and 400

select count(*) from btk where a between 1 and 400

insert into btk select 200, 0 from generate_series(1, 300) i

insert into btk select i, 0 from generate_series(1, 800) i

-- A scan that returns rows lies on the page before a delete through it.
delete from btk where a < 700

select count(*) from btk where a between 1 and 900

insert into btk select i % 700, 1 from generate_series(1, 1500) i

set enable_seqscan = on; set enable_bitmapscan = on

-- Vacuum: rows out of pages (also out of posting lists), whole pages out of the tree.
delete from bt where c = 3

vacuum bt

delete from bt where a between 500 and 3500

vacuum bt

-- Pages deleted once are free for use when no transaction can see them any more.
insert into bt select i, md5(i::text), 2 from generate_series(1000, 2500) i

vacuum bt

insert into bt select i, md5(i::text), 2 from generate_series(3000, 5000) i

-- A tree that shrinks to one page keeps its levels: the fast root moves down, and up again by the next split.
create table btr (a int)

create index btr_a on btr (a)

insert into btr select i from generate_series(1, 3000) i

delete from btr where a > 5

vacuum btr

vacuum btr

insert into btr select i from generate_series(6, 2000) i

-- The same where the keys are wide, so that levels are many: the meta page follows the fast root.
create table btm (a int, t text)

create index btm_t on btm (t)

insert into btm select i, lpad(i::text, 6, '0') || repeat('k', 500) from generate_series(1, 1200) i

delete from btm where a < 1195

vacuum btm

vacuum btm

insert into btm select i, lpad(i::text, 6, '0') || repeat('k', 500) from generate_series(1196, 1400) i

-- A half-dead page whose parent goes too.
delete from btw where k < '0000003000'

vacuum btw

vacuum btw

insert into btw select lpad((i * 7919 % 5000)::text, 10, '0') || repeat('k', 700) from generate_series(1, 500) i

-- Builds of every kind.
create unique index on btd (a desc)

create index concurrently btd_later on btd (c, b)

reindex index concurrently btd_later

reindex table bt

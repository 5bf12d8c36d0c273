-- Hash indexes: growth of buckets, overflow pages, splits and their completion, squeezing.

-- What this file is about alone: the images of the heap pages would be most of the WAL.
set wal_consistency_checking = 'hash'

create table ha (a int, b text)

create index ha_a on ha using hash (a)

insert into ha select i, 'v' from generate_series(1, 5000) i

insert into ha select 42, 'same' from generate_series(1, 3000) i

insert into ha select i, 'w' from generate_series(8001, 12000) i

delete from ha where a = 42

vacuum ha

insert into ha select i, 'x' from generate_series(14001, 17000) i

delete from ha where a % 2 = 0

vacuum ha

insert into ha select 43, 'same' from generate_series(1, 2500) i

insert into ha select 44, 'same' from generate_series(1, 2500) i

delete from ha where a = 43

vacuum ha

-- Entries marked dead by a scan, and an insert into the same page.
set enable_seqscan = off; set enable_bitmapscan = off

create table hk (a int, b int)

create index hk_a on hk using hash (a)

insert into hk select 7, i from generate_series(1, 380) i

delete from hk where a = 7 and b < 360

select count(*) from hk where a = 7

select count(*) from hk where a = 7

insert into hk select 7, i from generate_series(1, 200) i

set enable_seqscan = on; set enable_bitmapscan = on

create table hbuild as select i a from generate_series(1, 5000) i

create index on hbuild using hash (a)

create index on ha using hash (b)

create unlogged table hu (a int)

create index on hu using hash (a)

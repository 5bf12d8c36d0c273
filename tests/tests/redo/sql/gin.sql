-- GIN: pending list and its flush, posting trees that grow, split and shrink, builds.

-- What this file is about alone: the images of the heap pages would be most of the WAL.
set wal_consistency_checking = 'gin'

create table gi (a int, w int[])

create index gi_w on gi using gin (w) with (fastupdate = off)

create index gi_fast on gi using gin (w) with (fastupdate = on, gin_pending_list_limit = 64)

insert into gi select i, array[i % 10, i % 100, i] from generate_series(1, 1500) i

insert into gi select i, array[1] from generate_series(3001, 6000) i

insert into gi select i, array[i % 7, 2] from generate_series(9001, 10500) i

select gin_clean_pending_list('gi_fast')

vacuum gi

delete from gi where a % 3 = 0

vacuum gi

delete from gi where a between 3001 and 6000

vacuum gi

insert into gi select i, array[1, i % 13] from generate_series(20001, 21500) i

vacuum gi

delete from gi

vacuum gi

insert into gi select i, array[1, 2, 3] from generate_series(1, 1500) i

vacuum gi

create index gi_build on gi using gin (w)

create table gt (t tsvector)

create index on gt using gin (t)

insert into gt select to_tsvector('simple', md5(i::text) || ' ' || md5((i / 2)::text) || ' common') from generate_series(1, 600) i

vacuum gt

-- A posting tree of several pages that loses some in its middle. Its growth is not what is looked at.
set wal_consistency_checking = ''

create table gd (w int[])

create index gd_w on gd using gin (w) with (fastupdate = off)

insert into gd select array[1] from generate_series(1, 30000) i

set wal_consistency_checking = 'gin'

delete from gd where ctid < '(80,1)'::tid

vacuum gd

delete from gd where ctid < '(120,1)'::tid

vacuum gd

insert into gd select array[1] from generate_series(1, 500) i

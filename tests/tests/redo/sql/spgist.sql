-- SP-GiST: leaves that move, inner tuples that grow and split, redirects and their vacuum.

-- What this file is about alone: the images of the heap pages would be most of the WAL.
set wal_consistency_checking = 'spgist'

create table sp (a int, t text)

create index sp_t on sp using spgist (t)

insert into sp select i, md5(i::text) from generate_series(1, 3000) i

insert into sp select i, repeat('common', 30) || i from generate_series(1, 1000) i

insert into sp select i, repeat('common', 20) || 'other' || i from generate_series(1, 500) i

insert into sp select i, 'same' from generate_series(1, 1500) i

delete from sp where a % 3 = 0

vacuum sp

insert into sp select i, md5((i + 100000)::text) from generate_series(1, 3000) i

create table sq (p point)

create index sq_p on sq using spgist (p)

create index sq_k on sq using spgist (p kd_point_ops)

insert into sq select point(i % 83, (i * 7919) % 1009) from generate_series(1, 4000) i

delete from sq where p[0] < 40

vacuum sq

insert into sq select point(i % 83, (i * 31) % 1009) from generate_series(1, 3000) i

vacuum sq

delete from sq

vacuum sq

insert into sq values (point(1, 1))

create table sroot (t text)

create index sroot_t on sroot using spgist (t)

insert into sroot select 'r' || i from generate_series(1, 10) i

delete from sroot where t < 'r5'

vacuum sroot

create index sp_build on sp using spgist (t)

create table si (i inet)

create index on si using spgist (i)

insert into si select ('10.' || i % 256 || '.' || i / 256 || '.0/24')::inet from generate_series(1, 1500) i

-- GiST: splits to three levels, deletion marked by scans and by vacuum, deleted pages and their reuse.

-- What this file is about alone: the images of the heap pages would be most of the WAL.
set wal_consistency_checking = 'gist'

create table gs (a int, p point)

create index gs_p on gs using gist (p)

insert into gs select i, point(i % 97, i / 97) from generate_series(1, 3000) i

insert into gs select i, point(i % 977, i % 53) from generate_series(6001, 8000) i

set enable_seqscan = off; set enable_bitmapscan = off

delete from gs where a % 5 = 0

select count(*) from gs where p <@ box '((0,0),(1000,1000))'

select count(*) from gs where p <@ box '((0,0),(1000,1000))'

-- Redo of what follows sets a mark that the primary does not set: a standby's own check would end it there.
set wal_consistency_checking = ''

insert into gs select i, point(i % 97, i / 97) from generate_series(1, 3000) i

set enable_seqscan = on; set enable_bitmapscan = on; set wal_consistency_checking = 'gist'

delete from gs where p <@ box '((0,0),(60,60))'

vacuum gs

vacuum gs

insert into gs select i, point(i % 97, i / 97) from generate_series(1, 1500) i

vacuum gs

delete from gs

vacuum gs

insert into gs select i, point(i % 61, i / 61) from generate_series(1, 1500) i

vacuum gs

create index gs_build on gs using gist (p)

create index gs_buffered on gs using gist (p) with (buffering = on)

create table gr (r int4range, exclude using gist (r with &&))

insert into gr select int4range(i * 10, i * 10 + 5) from generate_series(1, 800) i

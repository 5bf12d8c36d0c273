-- Rows. Paragraphs are sent one after the other, each a transaction of its own.

create table h (a int primary key, b text, c int default 0) with (fillfactor = 90)

insert into h select i, repeat('x', i % 90), 0 from generate_series(1, 3000) i

-- Many rows at once: inserts of several rows per record, also with pages made by them.
create table many (a int, b text)

copy many from program 'seq 1 6000 | sed "s/$/\tsome text behind/"'

copy many from program 'seq 6001 6010 | sed "s/$/\tbehind/"'

-- Updates: on the page, to another page, to a page made for it, with and without common prefix and suffix.
update h set c = c + 1 where a % 5 = 0

update h set b = b || repeat('y', 300) where a % 3 = 0

update h set b = 'z' || b where a % 7 = 0

delete from h where a % 4 = 0

-- Pruning when a page is read.
update h set c = c + 1 where a between 1 and 200

select count(*) from h where c >= 0

update h set c = c + 1 where a between 1 and 200

select count(*) from h where c >= 0

-- A page that is all visible loses it: by insert, update, delete, lock.
vacuum h

insert into h values (100001, 'after vacuum', 0)

update h set c = -1 where a = 101

delete from h where a = 501

begin; select * from h where a = 701 for update; commit

vacuum h

update h set b = 'gone to another page' || repeat('w', 1500) where a between 1001 and 1011

copy h (a, b) from program 'seq 200001 200020 | sed "s/$/\tvisible/"'

-- Freezing, with and without dead rows.
vacuum (freeze) h

vacuum (freeze) many

delete from many where a % 2 = 0

vacuum (freeze) many

-- Speculative insertion: one that is kept, and conflicts.
insert into h values (300001, 'new', 0) on conflict (a) do update set c = h.c + 1

insert into h values (300001, 'again', 0) on conflict (a) do update set c = h.c + 1

insert into h select i, 'bulk', 0 from generate_series(300000, 300050) i on conflict do nothing

-- Rows out of line, compressed or not.
create table toasted (a int, b text)

alter table toasted alter b set storage external

insert into toasted select i, repeat(md5(i::text), 300) from generate_series(1, 20) i

update toasted set b = b || 'more' where a % 2 = 0

delete from toasted where a % 3 = 0

vacuum toasted

-- Locks of all strengths, and a delete and an update over them.
begin; select * from h where a = 2 for key share; select * from h where a = 2 for share; select * from h where a = 2 for no key update; select * from h where a = 2 for update; update h set c = 9 where a = 2; commit

begin; select * from h where a between 5 and 50 for share; savepoint s; update h set c = 10 where a between 5 and 50; rollback to s; delete from h where a between 5 and 20; commit

-- In-place updates of catalogs; many catalog rows.
create table wide as select i a, i::text b, i * 2 c from generate_series(1, 100) i

create index on wide (a)

analyze wide

vacuum wide

drop table wide

-- A partitioned table: rows that move between partitions.
create table parts (a int, b text) partition by list (a); create table part1 partition of parts for values in (1); create table part2 partition of parts for values in (2)

insert into parts select 1, i::text from generate_series(1, 200) i

update parts set a = 2 where b::int % 3 = 0

-- Truncation: by statement, by vacuum, and what grows again after it.
create table shrinks (a int, b text)

insert into shrinks select i, repeat('q', 500) from generate_series(1, 2000) i

vacuum shrinks

delete from shrinks where a > 100

vacuum shrinks

insert into shrinks select i, repeat('r', 700) from generate_series(1, 500) i

vacuum shrinks

truncate shrinks

insert into shrinks select i, repeat('s', 300) from generate_series(1, 500) i

begin; create table twice (a int); insert into twice values (1); truncate twice; insert into twice values (2); commit

-- A table rewritten.
vacuum full h

cluster h using h_pkey

-- Aborted work stays in the pages.
begin; insert into h select i, 'aborted', 0 from generate_series(400001, 400400) i; update h set c = 77 where a % 11 = 0; delete from h where a % 13 = 0; rollback

select count(*) from h

vacuum h

-- Unlogged tables log their init fork and no rows.
create unlogged table fleeting (a int primary key, b text)

insert into fleeting select i, 'u' from generate_series(1, 500) i

alter table fleeting set logged

create temporary table passing as select generate_series(1, 100) a

create materialized view mv as select a, count(*) n from h group by a

refresh materialized view mv

create sequence numbers

select nextval('numbers') from generate_series(1, 100)

select setval('numbers', 7)

alter sequence numbers restart with 1000

select nextval('numbers')

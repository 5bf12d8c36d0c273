//! Following a stock primary: its WAL byte for byte, through cancelled waits, restarts, kills and promotions; commits that wait
//! for our word; slots; and what is said of a server that can't be followed.

mod acknowledgement;
mod checks;
mod fake_primary;
mod follower;
mod receiving;
mod restarts;
mod silence;
mod slots;
mod timelines;

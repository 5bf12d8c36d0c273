//! Layers written and read back, against a plain map, and with damage.

mod damage;
mod golden;
mod model;
mod parts;
mod support;

//! What holds for every format: its golden bytes stay readable and are written again, values come back, damage shows.

mod damage;
mod golden;
mod round_trip;
pub(crate) mod sample;
pub(crate) mod strategy;

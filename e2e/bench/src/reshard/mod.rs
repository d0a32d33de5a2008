//! What moving slots costs: those that move, and those that do not.

mod most;
mod offer;
mod pair;
mod pause;
mod rows;
mod still;
mod times;

pub use pause::measure as pauses;
pub use rows::measure as rows;

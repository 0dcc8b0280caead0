//! Policies: texts and what becomes of them, and what holds of every text.

mod properties;
mod texts;
mod world;

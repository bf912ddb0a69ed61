//! Connectors: the declaration of an API, as data. A connector never loops, sleeps, retries, logs or
//! reads the environment; the engine owns all of that.

pub mod load;
pub mod model;
pub mod syntax;
pub mod template;

pub use model::*;

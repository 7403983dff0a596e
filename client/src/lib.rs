//! The load client: drives sessions through a gateway, checks every token, judges the run.
//! It never counts silence as success, and distrusts its own figures first.

pub mod measure;
pub mod output;
pub mod record;

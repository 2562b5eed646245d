//! The published state: the summary, changes, the status document.
//!
//! | module | owns |
//! |---|---|
//! | `publish` | the summary, failures and totals; publishes them at the end of a turn |
//! | `pending_changes` | changes that wait for the summary of their turn |
//! | `document` | composes the status document, on another thread |
//! | `status_cache` | the status document, kept as long as it may be given again, and the requesters that wait for one |
//! | `status_listener` | the socket of `status.listen` |
//! | `reader_rules` | which readers see details |
//! | `conditions` | parts of the configuration that a reload could not apply |
//! | `troubles` | problems that degrade the instance although its workers are well |

pub(in crate::master) mod conditions;
pub(in crate::master) mod document;
pub mod pending_changes;
pub(in crate::master) mod publish;
pub(in crate::master) mod reader_rules;
pub(in crate::master) mod status_cache;
pub(in crate::master) mod status_listener;
pub(in crate::master) mod troubles;

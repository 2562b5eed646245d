//! The log of the master.
//!
//! | module | owns |
//! |---|---|
//! | `journal` | entries for the journal or the terminal, written by a thread |
//! | `catalog` | `MESSAGE_ID=` and the catalog texts |
//! | `text` | text of strangers, made safe to print |

pub mod catalog;
pub mod journal;
pub mod text;

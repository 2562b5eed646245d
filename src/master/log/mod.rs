//! The log of the master.
//!
//! | module | owns |
//! |---|---|
//! | `journal` | entries for the journal or the terminal, which a thread writes |
//! | `catalog` | `MESSAGE_ID=` and the catalog's texts |
//! | `text` | makes foreign text safe to print |

pub mod catalog;
pub mod journal;
pub mod text;

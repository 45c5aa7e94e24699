//! Files as long-lived processes use them: read within bounds, told apart without reading, watched, written whole.
//!
//! It knows of no format and of no crate of ours. Reading and writing block, and are for threads that may.
//!
//! ```text
//! read           a file whole, if it is a file and not too large; keys only if nobody else may read them
//! whole          writes a file at once or not at all
//! stamp          what a look sees of a file without reading it
//! patience       faults that pass by themselves are not told
//! watch          hints that files may have changed
//! fingerprint    what tells one content from another
//! report         words for people on stderr
//! ```

mod fingerprint;
mod patience;
mod read;
mod report;
mod stamp;
mod watch;
mod whole;

pub use crate::fingerprint::{fingerprint, hex};
pub use crate::patience::Patience;
pub use crate::read::{exposed, read, read_private, text};
pub use crate::report::Reports;
pub use crate::stamp::{Stamp, stamps};
pub use crate::watch::{LOOK_EVERY, Watch};
pub use crate::whole::{PRIVATE, PUBLIC, write};

//! The language of the tables of keys: what a key is called, what it takes, what it means.
//!
//! One declaration of a key drives the walker that reads it, the JSON Schema, and the list of leaf keys,
//! so that they cannot drift apart.

use std::time::Duration;

use crate::text::Text;

/// A mapping with fixed keys.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) doc: &'static str,
    pub(crate) keys: &'static [Key],
    /// Keys that a later version will take here; today they are unknown, and the hint says so.
    pub(crate) later: &'static [&'static str],
}

/// One key of an [`Object`].
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) required: bool,
    pub(crate) doc: &'static str,
}

impl Key {
    pub(crate) const fn new(name: &'static str, kind: Kind, doc: &'static str) -> Self {
        Self { name, kind, required: false, doc }
    }

    pub(crate) const fn required(name: &'static str, kind: Kind, doc: &'static str) -> Self {
        Self { name, kind, required: true, doc }
    }
}

/// What a key takes.
#[derive(Debug)]
pub(crate) enum Kind {
    /// `true` or `false`.
    Bool,
    /// A whole number, both ends included.
    Integer { min: u64, max: u64 },
    /// A word, or a whole number.
    WordOrInteger { word: &'static str, min: u64, max: u64 },
    /// `250ms`, `1m30s`; at most [`crate::scalar::DURATION_MAX`].
    Duration { min: Duration },
    /// `64KiB`, or a number of bytes; both ends included.
    Size { min: u64, max: u64 },
    /// `20%`, `0.5%`, from none to all; kept in parts per million.
    Percentage,
    /// `1.6`: a decimal number, both ends included.
    Number { min: f64, max: f64 },
    /// `100/s`: so many per second, both ends included.
    Rate { min: u64, max: u64 },
    /// `ip:port`. `port_zero`: the kernel may choose the port; else it is an address to dial.
    Address { port_zero: bool },
    /// A text of some form.
    Text(Text),
    /// One of these words.
    Word(&'static [&'static str]),
    /// A mapping with fixed keys.
    Object(&'static Object),
    /// A list.
    List(&'static Kind),
    /// A mapping with keys of the file's own.
    Map { key: Text, value: &'static Kind },
    /// A single value for the common case, or a mapping.
    Either { short: &'static Kind, long: &'static Object },
}

impl Object {
    /// Finds a key by name.
    pub(crate) fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }
}

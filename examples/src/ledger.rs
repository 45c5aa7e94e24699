//! What was charged: each key once. A replica remembers it for itself, or shares a folder with the others.
//!
//! In the folder a key is taken by making a symbolic link of its name, which the file system lets one process do
//! once; there is no lock that a frozen or killed replica could hold. Whoever took the key writes the charge into
//! the book, a line each. So the book tells whether anybody was charged twice: see [`audit`]. A replica that is killed
//! between the two has taken a key and charged nothing, which is the right way round with other people's money.

use std::collections::{HashMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::pb::ChargeResponse;

/// Keys that a replica remembers by itself; past it the oldest is forgotten, as payment providers forget keys
/// after a day.
pub const KEYS_MAX: usize = 200_000;

/// Bytes of one idempotency key: in hex it is a file name, which may have 255.
pub const KEY_LENGTH_MAX: usize = 127;

/// The book in the folder.
const BOOK: &str = "book";

/// The folder of the keys in the folder.
const KEYS: &str = "keys";

/// Where charges are kept.
#[derive(Debug)]
pub enum Ledger {
    /// In memory.
    Own(Mutex<Own>),
    /// In a folder.
    Shared(Shared),
}

impl Default for Ledger {
    fn default() -> Self {
        Self::Own(Mutex::default())
    }
}

impl Ledger {
    /// The ledger in `folder`, which is made if it is not there.
    ///
    /// # Errors
    /// When the folder cannot be made or written.
    pub fn shared(folder: &Path) -> io::Result<Self> {
        fs::create_dir_all(folder.join(KEYS))?;
        let book = OpenOptions::new().create(true).append(true).open(folder.join(BOOK))?;
        Ok(Self::Shared(Shared { keys: folder.join(KEYS), book, charges: AtomicU64::new(0) }))
    }

    /// Charges, unless `key` was charged before: then the answer is the one of that time.
    ///
    /// # Errors
    /// When the folder cannot be read or written.
    pub fn charge(&self, key: &str, amount_cents: i64) -> io::Result<ChargeResponse> {
        match self {
            Self::Own(own) => {
                Ok(own.lock().unwrap_or_else(PoisonError::into_inner).charge(key, amount_cents))
            }
            Self::Shared(shared) => shared.charge(key, amount_cents),
        }
    }
}

/// The memory of one replica.
#[derive(Debug, Default)]
pub struct Own {
    answers: HashMap<String, ChargeResponse>,
    /// The keys of `answers`, oldest first.
    keys: VecDeque<String>,
    charges: u64,
}

impl Own {
    fn charge(&mut self, key: &str, amount_cents: i64) -> ChargeResponse {
        if let Some(first) = self.answers.get(key) {
            return first.clone();
        }
        if self.keys.len() == KEYS_MAX
            && let Some(oldest) = self.keys.pop_front()
        {
            self.answers.remove(&oldest);
        }
        self.charges += 1;
        let answer = ChargeResponse { charge_id: format!("charge-{}", self.charges), amount_cents };
        self.keys.push_back(key.to_owned());
        self.answers.insert(key.to_owned(), answer.clone());
        answer
    }
}

/// The folder that replicas share.
#[derive(Debug)]
pub struct Shared {
    keys: PathBuf,
    book: File,
    charges: AtomicU64,
}

impl Shared {
    fn charge(&self, key: &str, amount_cents: i64) -> io::Result<ChargeResponse> {
        let key: String = key.bytes().map(|byte| format!("{byte:02x}")).collect();
        let number = self.charges.fetch_add(1, Ordering::Relaxed);
        let charge_id = format!("charge-{:x}-{number}", process::id());
        let taken = self.keys.join(&key);
        match symlink(format!("{charge_id} {amount_cents}"), &taken) {
            Ok(()) => {
                self.write("charged", &key, &charge_id)?;
                Ok(ChargeResponse { charge_id, amount_cents })
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let first = first_answer(&taken)?;
                self.write("repeated", &key, &first.charge_id)?;
                Ok(first)
            }
            Err(error) => Err(error),
        }
    }

    /// One write, so that no other replica's line comes in between.
    fn write(&self, what: &str, key: &str, charge_id: &str) -> io::Result<()> {
        (&self.book).write_all(format!("{what} {key} {charge_id}\n").as_bytes())
    }
}

fn first_answer(taken: &Path) -> io::Result<ChargeResponse> {
    let answer = fs::read_link(taken)?;
    let parts = answer.to_str().and_then(|answer| answer.split_once(' '));
    let answer = parts.and_then(|(charge_id, cents)| {
        Some(ChargeResponse { charge_id: charge_id.to_owned(), amount_cents: cents.parse().ok()? })
    });
    answer.ok_or_else(|| io::Error::other(format!("{} is none of our links", taken.display())))
}

/// What the book of a shared folder says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Keys that were charged.
    pub charged: u64,
    /// Those among them that were charged more than once.
    pub twice: u64,
    /// Calls that were answered with an earlier charge.
    pub repeated: u64,
}

/// Reads the book of the ledger in `folder`.
///
/// # Errors
/// When there is none, or it cannot be read.
pub fn audit(folder: &Path) -> io::Result<Audit> {
    let book = fs::read_to_string(folder.join(BOOK))?;
    let mut charges: HashMap<&str, u64> = HashMap::new();
    let mut repeated = 0;
    for line in book.lines() {
        let mut words = line.split(' ');
        match (words.next(), words.next()) {
            (Some("charged"), Some(key)) => *charges.entry(key).or_default() += 1,
            (Some("repeated"), Some(_)) => repeated += 1,
            _ => {
                return Err(io::Error::other(format!(
                    "the book of {} has a line `{line}`",
                    folder.display()
                )));
            }
        }
    }
    let charged = charges.len().try_into().unwrap_or(u64::MAX);
    let twice = charges.values().filter(|times| **times > 1).count().try_into().unwrap_or(u64::MAX);
    Ok(Audit { charged, twice, repeated })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of this test's own, gone at its end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("outrigger-ledger-{}-{name}", process::id()));
            fs::create_dir(&folder).expect("a folder");
            Self(folder)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_oldest_key_is_forgotten_past_the_limit() {
        let mut own = Own::default();
        for n in 0..=KEYS_MAX {
            own.charge(&n.to_string(), 1);
        }
        assert_eq!((own.keys.len(), own.answers.len()), (KEYS_MAX, KEYS_MAX));
        assert!(!own.answers.contains_key("0") && own.answers.contains_key("1"));
    }

    #[test]
    fn replicas_that_share_a_folder_charge_a_key_once_even_at_the_same_moment() {
        const ASKED: usize = 200;
        let folder = Folder::new("once");
        let answers: Vec<Vec<ChargeResponse>> = std::thread::scope(|scope| {
            let replicas: Vec<_> = (1..=4)
                .map(|amount| {
                    let ledger = Ledger::shared(&folder.0).expect("a ledger");
                    scope.spawn(move || {
                        let charge = |n: usize| ledger.charge(&format!("key {n}/é"), amount);
                        (0..ASKED).map(charge).collect::<Result<_, _>>().expect("answers")
                    })
                })
                .collect();
            replicas.into_iter().map(|replica| replica.join().expect("no panic")).collect()
        });
        // Each asks for another amount, so they agree only if all were told what the first one charged.
        assert!(answers.iter().all(|answered| *answered == answers[0]));
        let audit = audit(&folder.0).expect("a book");
        assert_eq!(audit, Audit { charged: 200, twice: 0, repeated: 600 });
    }

    #[test]
    fn a_key_as_long_as_allowed_is_kept_and_answered_as_before() {
        let folder = Folder::new("long");
        let key = "k".repeat(KEY_LENGTH_MAX);
        let first = Ledger::shared(&folder.0).expect("a ledger").charge(&key, 700).expect("a charge");
        let restarted = Ledger::shared(&folder.0).expect("a ledger");
        assert_eq!(restarted.charge(&key, 900).expect("an answer"), first);
    }

    #[test]
    fn an_audit_finds_who_was_charged_twice_and_lines_that_are_no_charges() {
        let folder = Folder::new("audit");
        let book = folder.0.join(BOOK);
        fs::write(&book, "charged 61 a\ncharged 62 b\nrepeated 61 a\ncharged 61 c\n").expect("a book");
        assert_eq!(audit(&folder.0).expect("an audit"), Audit { charged: 2, twice: 1, repeated: 1 });
        fs::write(&book, "charged 61 a\ncha").expect("a book");
        assert!(audit(&folder.0).expect_err("a torn line").to_string().ends_with("has a line `cha`"));
    }
}

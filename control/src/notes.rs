//! Notes on many services, for people.

use rustc_hash::FxHashMap;

/// Services that one line names; the rest is counted.
const NAMED_MAX: usize = 3;

/// Lines that are made.
const LINES_MAX: usize = 100;

/// A line for each different note, in the order in which they first come: the services that it is true of, and the note.
/// There are at most [`LINES_MAX`].
pub(crate) fn lines<'a>(notes: impl IntoIterator<Item = (&'a str, Vec<String>)>) -> Vec<String> {
    let mut lines: Vec<(String, Vec<&str>)> = Vec::new();
    let mut places: FxHashMap<String, usize> = FxHashMap::default();
    for (service, notes) in notes {
        for note in notes {
            match places.get(&note) {
                Some(place) => lines[*place].1.push(service),
                None if lines.len() < LINES_MAX => {
                    places.insert(note.clone(), lines.len());
                    lines.push((note, vec![service]));
                }
                None => {}
            }
        }
    }
    lines.into_iter().map(|(note, services)| format!("{}: {note}", named(&services))).collect()
}

fn named(services: &[&str]) -> String {
    let named = services[..services.len().min(NAMED_MAX)].join(", ");
    match services.len().saturating_sub(NAMED_MAX) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_true_of_many_services_is_said_once() {
        let notes = |notes: &[&str]| notes.iter().map(|note| (*note).to_owned()).collect::<Vec<_>>();
        let of = ["a", "b", "c", "d", "e"].map(|service| (service, notes(&["no hedging"])));
        let lines = lines([("z", notes(&["no checks", "no hedging"]))].into_iter().chain(of));
        assert_eq!(lines, ["z: no checks", "z, a, b and 3 more: no hedging"]);
    }

    #[test]
    fn there_is_no_end_of_services_but_one_of_lines() {
        let notes: Vec<(&str, Vec<String>)> = (0..1_000).map(|i| ("a", vec![format!("{i}")])).collect();
        assert_eq!(lines(notes).len(), LINES_MAX);
    }
}

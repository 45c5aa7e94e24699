//! Calls to follow through both meshes: from a file, or made up from what the routes match.

use std::collections::BTreeSet;

use config::model::{HeaderMatch, HeaderValueMatch, Match, Mesh, MethodMatch, Service};

/// Calls that are made up at most; what comes after them is left out, and told.
pub(crate) const SAMPLES_MAX: usize = 20_000;

/// One call.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Sample {
    pub(crate) authority: String,
    pub(crate) method: String,
    pub(crate) headers: Vec<(String, String)>,
}

impl Sample {
    /// A line of a file of calls.
    pub(crate) fn text(&self) -> String {
        let headers: String = self.headers.iter().map(|(name, value)| format!(" {name}:{value}")).collect();
        format!("{} {}{headers}", self.authority, self.method)
    }
}

/// Reads lines `AUTHORITY METHOD [HEADER:VALUE]...`; empty ones and those that begin with `#` are passed over.
///
/// # Errors
/// `LINE: what is wrong with it`.
pub(crate) fn read(text: &str) -> Result<Vec<Sample>, String> {
    let lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim()));
    let said = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    said.map(|(at, line)| sample(line).map_err(|error| format!("{at}: {error}"))).collect()
}

fn sample(line: &str) -> Result<Sample, String> {
    let mut words = line.split_whitespace();
    let (Some(authority), Some(method)) = (words.next(), words.next()) else {
        return Err("a call is AUTHORITY METHOD [HEADER:VALUE]...".to_owned());
    };
    let headers = words.map(|word| {
        let (name, value) = word.split_once(':').ok_or_else(|| format!("{word:?} is not HEADER:VALUE"))?;
        Ok((name.to_owned(), value.to_owned()))
    });
    let sample = Sample {
        authority: authority.to_owned(),
        method: method.to_owned(),
        headers: headers.collect::<Result<_, String>>()?,
    };
    proxy::explain::Call::new(&sample.authority, &sample.method, &sample.headers)?;
    Ok(sample)
}

/// A method that no route names.
const ANY_METHOD: &str = "any.Service/Method";
/// The end of a method of which only the beginning is named.
const ANY_END: &str = "Any";

/// For every route of every mesh a call that it is about, and the same without its headers; for every declared method a call;
/// and for every service one that no route names.
pub(crate) fn derive(meshes: &[&Mesh]) -> Vec<Sample> {
    let mut samples = BTreeSet::new();
    for service in meshes.iter().flat_map(|mesh| &mesh.services) {
        let authority = service.full_name();
        let mut add = |authority: &str, method: &str, headers: Vec<(String, String)>| {
            samples.insert(Sample { authority: authority.to_owned(), method: method.to_owned(), headers });
        };
        add(&authority, ANY_METHOD, Vec::new());
        service.methods.keys().for_each(|method| add(&authority, method, Vec::new()));
        for route in &service.routes {
            let host = route.matches.host.as_deref().unwrap_or(&authority);
            let headers: Vec<(String, String)> = route.matches.headers.iter().filter_map(header).collect();
            for method in methods(&route.matches, service) {
                add(host, &method, headers.clone());
                add(host, &method, Vec::new());
            }
        }
    }
    let mut samples: Vec<Sample> = samples.into_iter().collect();
    samples.truncate(SAMPLES_MAX);
    samples
}

/// Methods that a match is about.
fn methods(matches: &Match, service: &Service) -> Vec<String> {
    let under = |prefix: &str| match prefix.contains('/') {
        true => format!("{prefix}{ANY_END}"),
        false => format!("{prefix}{ANY_END}/{ANY_END}"),
    };
    let of_service = matches.service.as_ref().map(|service| format!("{service}/{ANY_END}"));
    match &matches.method {
        Some(MethodMatch::Exact(method)) => vec![method.clone()],
        Some(MethodMatch::Prefix(prefix)) => {
            let declared = service.methods.keys().filter(|path| path.starts_with(prefix.as_str()));
            declared.cloned().chain([under(prefix)]).collect()
        }
        // What else it matches is not guessed.
        Some(MethodMatch::Regex(regex)) => {
            service.methods.keys().filter(|path| regex.is_match(path)).cloned().chain(of_service).collect()
        }
        None => vec![of_service.unwrap_or_else(|| ANY_METHOD.to_owned())],
    }
}

/// A header that meets a condition, where one can be told from it and is needed.
fn header(header: &HeaderMatch) -> Option<(String, String)> {
    let value = match (&header.value, header.invert) {
        (HeaderValueMatch::Exact(text) | HeaderValueMatch::Prefix(text), false) => text.clone(),
        (HeaderValueMatch::Present(present), invert) if *present != invert => "1".to_owned(),
        // A text that the expression itself is.
        (HeaderValueMatch::Regex(regex), false) => {
            let text = regex.as_str().trim_start_matches("^(?:").trim_end_matches(")$");
            regex.is_match(text).then(|| text.to_owned())?
        }
        _ => return None,
    };
    Some((header.name.clone(), value))
}

#[cfg(test)]
mod tests {
    use config::{Source, parse_mesh};

    use super::*;

    #[test]
    fn a_file_of_calls_is_read_line_by_line() {
        let read = read("# calls\n\npayments a.B/C x-canary:1 y:a:b\n  orders:1 a.B/D\n").expect("calls");
        let texts: Vec<String> = read.iter().map(Sample::text).collect();
        assert_eq!(texts, ["payments a.B/C x-canary:1 y:a:b", "orders:1 a.B/D"]);
        for (text, error) in [
            ("payments", "1: a call is AUTHORITY METHOD"),
            ("#\npayments a.B/C x", "2: \"x\" is not HEADER:VALUE"),
            ("pay{ments a.B/C", "1: authority"),
        ] {
            let told = super::read(text).expect_err(text);
            assert!(told.starts_with(error), "{told}");
        }
    }

    #[test]
    fn every_kind_of_match_gives_a_call_that_meets_it() {
        let text = "
version: 1
services:
  - name: a
    namespace: shop
    methods: {a.B/C: {type: unary}}
    routes:
      - match: {method: {prefix: a.B/}, host: a.shop.svc}
      - match: {service: a.D, headers: [{name: x, exact: '1'}, {name: x-y, prefix: v}, {name: x-z, present: false}]}
      - match: {method: {regex: 'a\\..*'}}
      - match: {method: a.E/F, headers: [{name: x, regex: blue}]}
";
        let mesh = parse_mesh(Source { name: "mesh", text }).unwrap_or_else(|faults| panic!("{faults}"));
        let texts: Vec<String> = derive(&[&mesh]).iter().map(Sample::text).collect();
        assert_eq!(
            texts,
            [
                "a.shop a.B/C",
                "a.shop a.D/Any",
                "a.shop a.D/Any x:1 x-y:v",
                "a.shop a.E/F",
                "a.shop a.E/F x:blue",
                "a.shop any.Service/Method",
                "a.shop.svc a.B/Any",
                "a.shop.svc a.B/C",
            ]
        );
    }
}

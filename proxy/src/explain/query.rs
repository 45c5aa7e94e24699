//! The question that a page is asked: `authority=HOST&method=pkg.Svc/Method&header=name:value&caller=ID`.

use crate::explain::question::Call;

/// What to write where the question is not understood.
pub(crate) const USAGE: &str = "ask /explain?authority=HOST[:PORT]&method=package.Service/Method[&header=NAME:VALUE]...[&caller=SPIFFE_ID]";

/// Reads the part of a URL behind the question mark.
pub(crate) fn read(query: &str) -> Result<Call, String> {
    let (mut authority, mut method, mut caller, mut headers) = (None, None, None, Vec::new());
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value =
            decode(value).ok_or_else(|| format!("{key}: after % come two hexadecimal digits; {USAGE}"))?;
        match key {
            "authority" => authority = Some(value),
            "method" => method = Some(value),
            "caller" => caller = Some(value),
            "header" => match value.split_once(':') {
                Some((name, value)) => headers.push((name.to_owned(), value.trim_start().to_owned())),
                None => return Err(format!("header={value}: there is no colon; {USAGE}")),
            },
            _ => return Err(format!("`{key}` is not known here; {USAGE}")),
        }
    }
    let (Some(authority), Some(method)) = (authority, method) else { return Err(USAGE.to_owned()) };
    let call = Call::new(&authority, &method, &headers)?;
    match caller {
        Some(caller) => call.by(&caller),
        None => Ok(call),
    }
}

/// Undoes the percent-encoding of a form; `None`: it is broken.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                u8::try_from(digit()? << 4 | digit()?).ok()?
            }
            b'+' => b' ',
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_gives_a_call() {
        let call = read("authority=orders%3A50051&method=a.B%2FC&header=x-a%3A1%2B1&header=x-a:2").unwrap();
        assert_eq!((&*call.authority, &*call.method), ("orders:50051", "a.B/C"));
        let values: Vec<_> = call.headers.get_all("x-a").iter().collect();
        assert_eq!(values, ["1+1", "2"]);
        assert!(call.caller.is_none());
        let caller = "spiffe%3A%2F%2Fcluster.local%2Fns%2Fshop%2Fsa%2Forders";
        let call = read(&format!("authority=orders&method=/a.B/C&caller={caller}")).unwrap();
        assert_eq!(call.method, "a.B/C");
        assert_eq!(call.caller.unwrap().as_str(), "spiffe://cluster.local/ns/shop/sa/orders");
    }

    #[test]
    fn a_question_that_no_call_answers_to_says_what_is_wrong() {
        for (query, told) in [
            ("", "ask /explain?"),
            ("authority=orders", "ask /explain?"),
            ("authority=a&method=a.B/C&colour=red", "`colour` is not known"),
            ("authority=a&method=a.B/C&header=x", "no colon"),
            ("authority=a&method=a.B/C&header=x%2", "two hexadecimal digits"),
            ("authority=a b&method=a.B/C", "not HOST or HOST:PORT"),
            ("authority=a&method=a.B/C&header=%00:1", "not the name of a header"),
            ("authority=a&method=a.B/C&caller=me", "caller \"me\""),
        ] {
            let error = read(query).unwrap_err();
            assert!(error.contains(told), "{query}: {error}");
        }
    }
}

//! One section of a file is written anew, and the others stay byte by byte.

use std::io;

use serde::Serialize;

/// The text of an object whose member `name` is `value` now: in its place, or at the end. The file is one that
/// [`serde_json::to_string_pretty`] has written: each member of the object begins on a line of its own, two spaces in.
///
/// # Errors
/// When the text is no such object.
pub fn replaced(text: &str, name: &str, value: &impl Serialize) -> io::Result<String> {
    let strange = || io::Error::other("figures: not an object as this program writes it; delete the file");
    let inner =
        text.trim_end().strip_prefix("{\n").and_then(|rest| rest.strip_suffix("\n}")).ok_or_else(strange)?;
    let mut members: Vec<String> = Vec::new();
    for line in inner.lines() {
        match members.last_mut() {
            Some(member) if !line.starts_with("  \"") => *member += &format!("\n{line}"),
            _ => members.push(line.to_owned()),
        }
    }
    for member in &mut members {
        *member = member.trim_end_matches(',').to_owned();
    }
    let key = format!("  {}: ", serde_json::to_string(name)?);
    let pretty = serde_json::to_string_pretty(value)?;
    let new = format!("{key}{}", pretty.replace('\n', "\n  "));
    match members.iter_mut().find(|member| member.starts_with(&key)) {
        Some(member) => *member = new,
        None => members.push(new),
    }
    let text = format!("{{\n{}\n}}\n", members.join(",\n"));
    serde_json::from_str::<serde_json::Value>(&text).map_err(|_| strange())?;
    Ok(text)
}

/// The text of a page whose part between `<!-- NAME -->` and `<!-- NAME: end -->` is `part` now.
///
/// # Errors
/// When the page has no such part.
pub fn between(page: &str, name: &str, part: &str) -> io::Result<String> {
    let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- {name}: end -->"));
    let split = || {
        let (before, rest) = page.split_once(&begin)?;
        Some((before, rest.split_once(&end)?.1))
    };
    let (before, after) = split().ok_or_else(|| io::Error::other(format!("no part `{name}` in the page")))?;
    Ok(format!("{before}{begin}\n{}\n\n{end}{after}", part.trim()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_section_is_written_anew_and_the_others_stay_as_they_are() {
        let z = json!({"b": [1, {"c": "x,\n  \"y\": "}]});
        let text = replaced("{\n  \"z\": {},\n  \"a\": 1.50\n}\n", "z", &z).unwrap();
        assert!(text.starts_with("{\n  \"z\": {\n    \"b\": [\n"), "{text}");
        assert!(text.ends_with("\n  },\n  \"a\": 1.50\n}\n"), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap()["z"], z);
        let text = replaced(&text, "z", &2).unwrap();
        assert_eq!(text, "{\n  \"z\": 2,\n  \"a\": 1.50\n}\n");
        assert_eq!(replaced(&text, "new", &3).unwrap(), "{\n  \"z\": 2,\n  \"a\": 1.50,\n  \"new\": 3\n}\n");
    }

    #[test]
    fn a_part_of_a_page_is_written_anew_between_its_marks() {
        let page = "a\n<!-- x -->\nold\n<!-- x: end -->\nb\n";
        let new = "a\n<!-- x -->\n\nnew\n\n<!-- x: end -->\nb\n";
        assert_eq!(between(page, "x", "new\n").unwrap(), new);
        assert_eq!(between(new, "x", "new").unwrap(), new);
        assert!(between(page, "y", "new").is_err());
    }

    #[test]
    fn a_file_that_is_something_else_is_left_alone() {
        for text in ["", "[]", "{\"a\": 1}", "{\n  \"a\": \n}\n"] {
            assert!(replaced(text, "z", &1).is_err(), "{text:?}");
        }
    }
}

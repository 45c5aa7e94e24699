//! The first look at a file: its shape, the place of everything in it, and its limits.
//!
//! This pass runs before anything builds values, because it is the one that stops what is too large, too
//! deep, or small on paper and huge when its aliases are expanded.

use std::collections::HashMap;
use std::rc::Rc;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, StrInput};

use crate::fault::{Place, Wrong};

/// Bytes of one file.
pub(crate) const FILE_BYTES_MAX: usize = 1 << 20;

/// Levels of lists and mappings inside each other, aliases expanded.
pub(crate) const DEPTH_MAX: usize = 64;

/// Aliases (`*name`) in one file.
pub(crate) const ALIASES_MAX: usize = 256;

/// Values that the aliases of one file may stand for in all.
pub(crate) const ALIAS_VALUES_MAX: usize = 10_000;

/// A value and where it stands.
#[derive(Debug)]
pub(crate) struct Outline {
    pub(crate) place: Place,
    pub(crate) shape: Shape,
    /// Values in it, itself included, aliases expanded.
    values: usize,
    /// Levels of lists and mappings in it, itself included.
    height: usize,
}

/// What kind of value it is; text is not yet read as a number or a flag.
#[derive(Debug)]
pub(crate) enum Shape {
    /// `plain`: without quotes.
    Scalar {
        text: String,
        plain: bool,
    },
    Sequence(Vec<Rc<Outline>>),
    Mapping(Vec<Entry>),
}

/// A key and its value.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) place: Place,
    pub(crate) value: Rc<Outline>,
}

/// Reads the shape of a file. The first fault ends it: what follows a broken line means nothing.
pub(crate) fn outline(text: &str) -> Result<Rc<Outline>, (Place, Wrong)> {
    if text.len() > FILE_BYTES_MAX {
        let wrong = Wrong::new(format!("the file has {} bytes", text.len()));
        return Err((Place::START, wrong.hint(format!("at most {FILE_BYTES_MAX} are read"))));
    }
    let mut reader = Reader {
        parser: Parser::new_from_str(without_mark(text)),
        anchors: HashMap::new(),
        aliases: 0,
        alias_values: 0,
    };
    let mut root = None;
    loop {
        let (event, span) = reader.next()?;
        match event {
            Event::StreamEnd => break,
            Event::DocumentStart(_) if root.is_some() => {
                let wrong = Wrong::new("a second YAML document begins here");
                return Err((place(span), wrong.hint("write one document a file, without `---`")));
            }
            Event::DocumentStart(_) => {
                let first = reader.next()?;
                root = Some(reader.value(first, 0)?);
            }
            _ => {}
        }
    }
    let empty = || (Place::START, Wrong::new("the file is empty"));
    let root = root.ok_or_else(empty)?;
    match &root.shape {
        Shape::Scalar { text, plain: true } if text.is_empty() => Err(empty()),
        _ => Ok(root),
    }
}

/// The text without the byte order mark that some editors write.
pub(crate) fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

struct Reader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    /// By the parser's number of the anchor; an anchor whose value is still being read is not in it.
    anchors: HashMap<usize, Rc<Outline>>,
    aliases: usize,
    alias_values: usize,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), (Place, Wrong)> {
        match self.parser.next_event() {
            Some(Ok(next)) => Ok(next),
            Some(Err(error)) => {
                let at = Place { line: error.marker().line().max(1), column: error.marker().col() + 1 };
                let wrong = Wrong::new(format!("this is not YAML: {}", error.info()));
                Err((
                    at,
                    match error.info().contains("anchor") {
                        true => wrong.hint("quote a text that begins with `*` or `&`"),
                        false => wrong,
                    },
                ))
            }
            None => Err((Place::START, Wrong::new("this is not YAML: it ends in the middle"))),
        }
    }

    fn value(
        &mut self,
        (event, span): (Event<'a>, Span),
        depth: usize,
    ) -> Result<Rc<Outline>, (Place, Wrong)> {
        let at = place(span);
        let (anchor, tag, shape) = match event {
            Event::Alias(anchor) => return self.alias(anchor, at, depth),
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain;
                (anchor, tag, Shape::Scalar { text: text.into_owned(), plain })
            }
            Event::SequenceStart(anchor, tag) => {
                check_depth(depth + 1, at)?;
                (anchor, tag, Shape::Sequence(self.sequence(depth + 1)?))
            }
            Event::MappingStart(anchor, tag) => {
                check_depth(depth + 1, at)?;
                (anchor, tag, Shape::Mapping(self.mapping(depth + 1)?))
            }
            _ => return Err((at, Wrong::new("this is not YAML: a value is missing"))),
        };
        if let Some(tag) = tag {
            let written = match tag.is_yaml_core_schema() {
                true => format!("!!{}", tag.suffix),
                false => tag.to_string(),
            };
            let wrong = Wrong::new(format!("the tag `{written}` is not supported"));
            return Err((at, wrong.hint("write the value without a tag; quote it to make it a text")));
        }
        let (values, height) = measure(&shape);
        let read = Rc::new(Outline { place: at, shape, values, height });
        if anchor != 0 {
            self.anchors.insert(anchor, Rc::clone(&read));
        }
        Ok(read)
    }

    fn sequence(&mut self, depth: usize) -> Result<Vec<Rc<Outline>>, (Place, Wrong)> {
        let mut items = Vec::new();
        loop {
            let next = self.next()?;
            if matches!(next.0, Event::SequenceEnd) {
                return Ok(items);
            }
            items.push(self.value(next, depth)?);
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Vec<Entry>, (Place, Wrong)> {
        let mut entries = Vec::new();
        loop {
            let next = self.next()?;
            let at = place(next.1);
            let key = match next.0 {
                Event::MappingEnd => return Ok(entries),
                Event::Scalar(text, _, 0, None) => text.into_owned(),
                _ => {
                    let wrong = Wrong::new("a key is not a plain text");
                    return Err((at, wrong.hint("quote it if it begins with `*`, `&`, `!`, `[` or `{`")));
                }
            };
            let next = self.next()?;
            let mut value = self.value(next, depth)?;
            // A value that is not there has no place of its own.
            if let Shape::Scalar { text, plain: true } = &value.shape
                && text.is_empty()
            {
                let shape = Shape::Scalar { text: String::new(), plain: true };
                value = Rc::new(Outline { place: at, shape, values: 1, height: 0 });
            }
            entries.push(Entry { key, place: at, value });
        }
    }

    fn alias(&mut self, anchor: usize, at: Place, depth: usize) -> Result<Rc<Outline>, (Place, Wrong)> {
        let Some(meant) = self.anchors.get(&anchor) else {
            return Err((at, Wrong::new("the alias stands inside what it names")));
        };
        self.aliases += 1;
        self.alias_values += meant.values;
        if self.aliases > ALIASES_MAX {
            return Err((at, Wrong::new(format!("more than {ALIASES_MAX} aliases in one file"))));
        }
        if self.alias_values > ALIAS_VALUES_MAX {
            let wrong = Wrong::new(format!("the aliases stand for more than {ALIAS_VALUES_MAX} values"));
            return Err((at, wrong.hint("write fewer aliases, or name smaller blocks")));
        }
        check_depth(depth + meant.height, at)?;
        Ok(Rc::clone(meant))
    }
}

fn measure(shape: &Shape) -> (usize, usize) {
    let children: Vec<&Rc<Outline>> = match shape {
        Shape::Scalar { .. } => return (1, 0),
        Shape::Sequence(items) => items.iter().collect(),
        Shape::Mapping(entries) => entries.iter().map(|entry| &entry.value).collect(),
    };
    let values = children.iter().map(|child| child.values).sum::<usize>();
    let height = children.iter().map(|child| child.height).max().unwrap_or(0);
    (values + 1, height + 1)
}

fn check_depth(depth: usize, at: Place) -> Result<(), (Place, Wrong)> {
    if depth <= DEPTH_MAX {
        return Ok(());
    }
    Err((at, Wrong::new(format!("lists and mappings stand more than {DEPTH_MAX} levels deep"))))
}

fn place(span: Span) -> Place {
    Place { line: span.start.line().max(1), column: span.start.col() + 1 }
}

//! Reads the Prometheus text format back (exposition format 0.0.4).

/// One scrape.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    samples: Vec<Sample>,
}

/// One line of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The metric's name, with `_bucket`, `_sum` or `_count` for a histogram's parts.
    pub name: String,
    /// The labels, in the order of the line.
    pub labels: Vec<(String, String)>,
    /// The value.
    pub value: f64,
}

impl Metrics {
    /// Reads a scrape; a line that is not a sample is left out.
    pub fn parse(text: &str) -> Self {
        Self { samples: text.lines().filter_map(sample).collect() }
    }

    /// The sum of all series of `name` that carry these labels; 0 if there is none.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.matching(name, labels).map(|sample| sample.value).sum()
    }

    /// The series of `name` that carry these labels.
    pub fn matching<'m>(&'m self, name: &str, labels: &[(&str, &str)]) -> impl Iterator<Item = &'m Sample> {
        self.samples.iter().filter(move |sample| {
            sample.name == name && labels.iter().all(|(key, value)| sample.label(key) == Some(value))
        })
    }

    /// Every series.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }
}

impl Sample {
    /// The value of one label.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}

fn sample(line: &str) -> Option<Sample> {
    if line.starts_with('#') {
        return None;
    }
    let end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Vec::new(), rest),
    };
    // A timestamp may follow the value.
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some(Sample { name: name.to_owned(), labels, value })
}

/// Reads up to the closing brace; also returns what follows it.
fn labels(mut rest: &str) -> Option<(Vec<(String, String)>, &str)> {
    let mut labels = Vec::new();
    loop {
        if let Some(rest) = rest.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (key, quoted) = rest.split_once("=\"")?;
        let mut value = String::new();
        let mut chars = quoted.char_indices();
        let end = loop {
            match chars.next()? {
                (at, '"') => break at,
                (_, '\\') => match chars.next()?.1 {
                    'n' => value.push('\n'),
                    other => value.push(other),
                },
                (_, other) => value.push(other),
            }
        };
        labels.push((key.trim().to_owned(), value));
        rest = &quoted[end + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP calls_total Calls.\n# TYPE calls_total counter\n\
        calls_total{method=\"A\",code=\"OK\"} 3\ncalls_total{method=\"A\",code=\"a \\\"b}\\\\\",} 4 1700000000\n\
        open 1.5e3\n";

    #[test]
    fn a_value_sums_what_matches() {
        let metrics = Metrics::parse(TEXT);
        assert_eq!(metrics.value("calls_total", &[("method", "A")]), 7.0);
        assert_eq!(metrics.value("calls_total", &[("code", "OK")]), 3.0);
        assert_eq!(metrics.value("open", &[]), 1_500.0);
        assert_eq!(metrics.value("calls", &[]), 0.0);
    }

    #[test]
    fn escapes_in_a_label_are_undone() {
        let metrics = Metrics::parse(TEXT);
        assert_eq!(metrics.value("calls_total", &[("code", "a \"b}\\")]), 4.0);
    }
}

//! Header changes, with names and values ready to insert.

use config::model;
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

/// Changes on the way to the endpoint and on the way back.
#[derive(Debug, Default)]
pub(crate) struct HeaderRules {
    pub(crate) request: HeaderChanges,
    pub(crate) response: HeaderChanges,
}

/// Applied in the order remove, set, add.
#[derive(Debug, Default)]
pub(crate) struct HeaderChanges {
    remove: Vec<HeaderName>,
    set: Vec<(HeaderName, HeaderValue)>,
    add: Vec<(HeaderName, HeaderValue)>,
}

impl HeaderRules {
    pub(crate) fn new(rules: &model::HeaderRules) -> Self {
        Self { request: HeaderChanges::new(&rules.request), response: HeaderChanges::new(&rules.response) }
    }

    /// As the model has them.
    pub(crate) fn model(&self) -> model::HeaderRules {
        model::HeaderRules { request: self.request.model(), response: self.response.model() }
    }
}

impl HeaderChanges {
    fn new(changes: &model::HeaderChanges) -> Self {
        // The parser has checked every name and value, so nothing is lost here.
        let pair = |(name, value): &(String, String)| {
            Some((HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?))
        };
        Self {
            remove: changes.remove.iter().filter_map(|name| HeaderName::try_from(name).ok()).collect(),
            set: changes.set.iter().filter_map(pair).collect(),
            add: changes.add.iter().filter_map(pair).collect(),
        }
    }

    fn model(&self) -> model::HeaderChanges {
        let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let pairs = |list: &[(HeaderName, HeaderValue)]| {
            list.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
        };
        model::HeaderChanges {
            remove: self.remove.iter().map(HeaderName::to_string).collect(),
            set: pairs(&self.set),
            add: pairs(&self.add),
        }
    }

    pub(crate) fn apply(&self, headers: &mut HeaderMap) {
        for name in &self.remove {
            headers.remove(name);
        }
        for (name, value) in &self.set {
            headers.insert(name, value.clone());
        }
        for (name, value) in &self.add {
            headers.append(name, value.clone());
        }
    }
}

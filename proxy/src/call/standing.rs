//! Who calls on a connection, as rules know it.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use config::spiffe::SpiffeId;

use crate::tables::authorize::Authorization;
use crate::tables::rules::Groups;

/// Who calls on a connection, as the rules of its entry know it: looked up once for all its calls, and again when they change.
#[derive(Debug, Default)]
pub(crate) struct Standing(RefCell<Option<(Arc<Authorization>, Rc<Groups>)>>);

impl Standing {
    pub(crate) fn groups(&self, rules: &Arc<Authorization>, peer: Option<&SpiffeId>) -> Rc<Groups> {
        let mut known = self.0.borrow_mut();
        match &*known {
            Some((of, groups)) if Arc::ptr_eq(of, rules) => groups.clone(),
            _ => {
                let groups = Rc::new(rules.groups(peer));
                *known = Some((rules.clone(), groups.clone()));
                groups
            }
        }
    }
}

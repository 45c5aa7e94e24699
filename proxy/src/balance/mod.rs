//! Which endpoint takes a call. Pure: state, time and chance come in as arguments.

pub(crate) mod backoff;
pub(crate) mod budget;
pub(crate) mod cooling;
pub(crate) mod detector;
pub(crate) mod ewma;
pub(crate) mod fitness;
pub(crate) mod outlier;
pub(crate) mod picker;
pub(crate) mod slow_start;
pub(crate) mod standing;
pub(crate) mod throttle;
pub(crate) mod weights;

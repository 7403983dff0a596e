//! Scales the gateways of a native stack by their open sockets: reads the metrics every few seconds, decides, changes the number and
//! logs it. The supervisor calls it between requests.

use crate::{
    autoscale::{Autoscaler, Rule},
    native::Native,
    role::Role,
};
use parking_lot::Mutex;
use std::time::{Duration, Instant};
use tracing::{debug, info, warn};

/// Time between two decisions.
const INTERVAL: Duration = Duration::from_secs(5);
/// Time between two decisions while there is no gateway and clients wait for one. Also that between two calls of [`Autoscaling::step`].
pub(crate) const TICK: Duration = Duration::from_secs(1);

/// The autoscaling of a running stack.
#[derive(Debug)]
pub(crate) struct Autoscaling {
    start: Instant,
    /// When the next decision is due while there are gateways.
    due: Mutex<Instant>,
    autoscaler: Mutex<Autoscaler>,
    /// The last decision, for the status.
    last: Mutex<Option<String>>,
}

impl Autoscaling {
    /// Creates the autoscaling of a stack with `current` gateways.
    pub(crate) fn new(rule: Rule, current: u16) -> Self {
        info!(%rule, "scaling the gateways by their open sockets");
        Self {
            start: Instant::now(),
            due: Mutex::new(Instant::now()),
            autoscaler: Mutex::new(Autoscaler::new(rule, current)),
            last: Mutex::default(),
        }
    }

    /// Returns the rule and the last decision, for the status.
    pub(crate) fn describe(&self) -> String {
        let rule = self.autoscaler.lock().rule().to_string();
        match &*self.last.lock() {
            Some(last) => format!("{rule} ({last})"),
            None => rule,
        }
    }

    /// If a decision is due: reads the metrics of the gateways or, without a gateway, of the load balancers, decides, and changes the
    /// number of gateways if that is decided.
    pub(crate) async fn step(&self, native: &Native) {
        let now = Instant::now();
        let is_empty = native.gateways() == 0;
        if !is_empty && now < *self.due.lock() {
            return;
        }
        *self.due.lock() = now + INTERVAL;
        let readings = native.gateway_connections().await;
        let refused = if is_empty { native.refused_connections().await } else { 0 };
        let decision = self.autoscaler.lock().decide(self.start.elapsed(), &readings, refused);
        let (current, wanted, text) = (decision.current, decision.wanted, decision.to_string());
        let is_new = self.last.lock().replace(text.clone()).as_ref() != Some(&text);
        if wanted == current && !native.reload_is_due() {
            if is_new {
                info!("autoscaling keeps {current} gateways: {text}");
            } else {
                debug!("autoscaling keeps {current} gateways: {text}");
            }
            return;
        }
        if wanted == current {
            info!("autoscaling reloads HAProxy, which does not know all gateways yet");
        } else {
            info!("autoscaling changes the number of gateways from {current} to {wanted}: {text}");
        }
        match native.change_count(Role::Wsproxy, wanted).await {
            Ok(scaled) => {
                info!("{scaled}");
                self.autoscaler.lock().changed(self.start.elapsed(), scaled.before, scaled.after);
            }
            Err(error) => warn!("autoscaling could not change the number of gateways to {wanted}: {error:#}"),
        }
    }
}

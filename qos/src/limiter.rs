//! The limits of one volume, group or pool, as buckets.

use std::collections::BTreeMap;

use crate::{
    Key, Kind, Limits, Nanos, Request,
    bucket::Bucket,
    limits::{Effective, nanos},
    lines::Keys,
};

/// What a rate holds when it was not used: as much as it brings in a twentieth of a second. Clocks and timers are late now and then.
const SLACK: Nanos = crate::SECOND / 20;

/// One of the six limits: a rate for good and, if it has a burst, its rate.
#[derive(Clone, Copy, Debug)]
struct Gauge {
    key: Key,
    /// Holds what a burst is above the rate, so that a full one lasts exactly as long as it should.
    rate: Bucket,
    /// The burst's own rate.
    burst: Option<Bucket>,
}

/// Billionths of a token that a rate brings in a time.
fn brought(rate: u64, time: Nanos) -> i128 {
    i128::from(rate).saturating_mul(i128::from(time))
}

/// What the bucket of the rate holds: a burst of `max` lasts its length, as the rate goes on bringing meanwhile.
fn capacity(effective: &Effective) -> i128 {
    match effective.burst {
        Some((max, length)) => brought(max - effective.rate, nanos(length)).max(brought(effective.rate, SLACK)),
        None => brought(effective.rate, SLACK),
    }
}

impl Gauge {
    fn new(effective: &Effective, now: Nanos) -> Self {
        let burst = effective.burst.map(|(max, _)| Bucket::new(max, brought(max, SLACK), now));
        Self { key: effective.key, rate: Bucket::new(effective.rate, capacity(effective), now), burst }
    }

    fn change(&mut self, effective: &Effective, now: Nanos) {
        self.rate.change(effective.rate, capacity(effective), now);
        self.burst = effective.burst.map(|(max, _)| {
            let mut burst = self.burst.unwrap_or_else(|| Bucket::new(max, brought(max, SLACK), now));
            burst.change(max, brought(max, SLACK), now);
            burst
        });
    }

    fn resize(&mut self, effective: &Effective, now: Nanos) {
        self.rate.resize(effective.rate, capacity(effective), now);
        self.burst = effective.burst.map(|(max, _)| {
            let mut burst = self.burst.unwrap_or_else(|| Bucket::new(max, brought(max, SLACK), now));
            burst.resize(max, brought(max, SLACK), now);
            burst
        });
    }

    /// How much of it a request takes. A discard is one, whatever its size: nothing is transferred.
    fn tokens(&self, request: &Request, requests: u64) -> u64 {
        let concerned = match self.key {
            Key::TotalIops | Key::TotalBytes => true,
            Key::ReadIops | Key::ReadBytes => request.kind == Kind::Read,
            Key::WriteIops | Key::WriteBytes => request.kind != Kind::Read,
        };
        match (concerned, self.key.is_bytes()) {
            (false, _) => 0,
            (true, false) => requests,
            (true, true) if request.kind == Kind::Discard => 0,
            (true, true) => request.bytes,
        }
    }
}

/// All limits of one node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Limiter {
    limits: Limits,
    size: u64,
    gauges: Vec<Gauge>,
}

impl Limiter {
    pub(crate) fn is_unlimited(&self) -> bool {
        self.gauges.is_empty()
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// As how many requests one counts.
    pub(crate) fn requests(&self, request: &Request) -> u64 {
        if request.kind == Kind::Discard { 1 } else { self.limits.requests(request.bytes) }
    }

    /// Other limits, or another size of the volume, from the next request on. What was used of a limit that stays is still used. Where only the size is
    /// another, there is no more than before: else to grow and be put back again would be a way to credit.
    pub(crate) fn set(&mut self, limits: Limits, size: u64, now: Nanos) {
        let old = std::mem::take(&mut self.gauges);
        let is_resized = limits == self.limits && size != self.size;
        let made = |effective: &Effective| match old.iter().find(|gauge| gauge.key == effective.key) {
            Some(gauge) => {
                let mut gauge = *gauge;
                if is_resized {
                    gauge.resize(effective, now);
                } else {
                    gauge.change(effective, now);
                }
                gauge
            }
            None => Gauge::new(effective, now),
        };
        self.gauges = limits.effective(size).iter().map(made).collect();
        self.limits = limits;
        self.size = size;
    }

    /// Tells of each limit that concerns a request when there will be enough for it, and how long as much takes to come in.
    pub(crate) fn each_ready(&mut self, request: &Request, now: Nanos, mut tell: impl FnMut(Key, Nanos, Nanos)) {
        if self.gauges.is_empty() {
            return;
        }
        let requests = self.requests(request);
        for gauge in &mut self.gauges {
            let tokens = gauge.tokens(request, requests);
            if tokens > 0 {
                let burst = gauge.burst.as_mut().map_or(now, |burst| burst.ready_at(tokens, now));
                tell(gauge.key, gauge.rate.ready_at(tokens, now).max(burst), gauge.rate.lead(tokens));
            }
        }
    }

    /// The limits that concern a request.
    pub(crate) fn concerns(&self, request: &Request) -> Keys {
        let requests = self.requests(request);
        let concerned = self.gauges.iter().filter(|gauge| gauge.tokens(request, requests) > 0);
        concerned.fold(0, |keys, gauge| keys | 1 << gauge.key as u8)
    }

    /// Takes what a request needs; to be called when it may pass.
    pub(crate) fn take(&mut self, request: &Request) {
        if self.gauges.is_empty() {
            return;
        }
        let requests = self.requests(request);
        for gauge in &mut self.gauges {
            let tokens = gauge.tokens(request, requests);
            gauge.rate.take(tokens);
            if let Some(burst) = &mut gauge.burst {
                burst.take(tokens);
            }
        }
    }

    /// Tokens that are there, by the limits' names; negative: owed.
    pub(crate) fn credits(&mut self, now: Nanos) -> BTreeMap<&'static str, i64> {
        self.gauges.iter_mut().map(|gauge| (gauge.key.name(), gauge.rate.tokens(now))).collect()
    }

    /// What was used, for after a restart.
    pub(crate) fn used(&mut self, now: Nanos) -> BTreeMap<String, u64> {
        let used = self.gauges.iter_mut().map(|gauge| (gauge.key.name().to_owned(), gauge.rate.used(now)));
        used.filter(|(_, used)| *used > 0).collect()
    }

    /// What had been used before a restart; limits that are there no more are passed over.
    pub(crate) fn restore(&mut self, used: &BTreeMap<String, u64>) {
        for gauge in &mut self.gauges {
            if let Some(used) = used.get(gauge.key.name()) {
                gauge.rate.take(*used);
            }
        }
    }
}

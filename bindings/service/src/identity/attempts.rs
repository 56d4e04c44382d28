//! How often somebody may try: bounds on failed logins, for each name and for each address.
//!
//! Invariants:
//! - An attempt is counted before its secret is looked at, and given back when it was right: attempts at the same moment do not go
//!   past the bound together, and whoever logs in rightly never meets it.
//! - Names are counted whether somebody has them or not, so that a refusal tells nothing.
//! - Memory is bounded. When all places are taken by names that failed lately, further names share one place.

use std::{
    collections::{HashMap, hash_map::RandomState},
    hash::{BuildHasher, Hash},
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::fault::{Answer, Fault, FaultKind};

/// Failures of one name at once, and after how long one more.
const NAME: Bound = Bound { burst: 10, pause: Duration::from_secs(6) };
/// Wrong passcodes of one user. There are only a million, and three are right at any moment.
const CODE: Bound = Bound { burst: 5, pause: Duration::from_secs(300) };
/// Of one address. Many people may share one.
const ADDRESS: Bound = Bound { burst: 50, pause: Duration::from_secs(2) };
/// Most names, and most addresses, that are remembered.
pub(super) const PLACES: usize = 65_536;
/// Between two searches for places that can be forgotten.
const SEARCH: Duration = Duration::from_secs(1);

#[derive(Clone, Copy)]
pub(super) struct Bound {
    /// So many at once.
    pub(super) burst: u32,
    /// After how long one more.
    pub(super) pause: Duration,
}

struct Places {
    /// When all failures of a place will be forgotten.
    until: HashMap<u64, Instant>,
    /// The place of those that found none.
    shared: Option<Instant>,
    searched: Option<Instant>,
}

/// Failures by key.
pub(super) struct Counter {
    bound: Bound,
    most: usize,
    places: Mutex<Places>,
    keys: RandomState,
}

impl Counter {
    /// `most`: how many keys are remembered.
    pub(super) fn new(bound: Bound, most: usize) -> Self {
        let places = Places { until: HashMap::new(), shared: None, searched: None };
        Self { bound, most, places: Mutex::new(places), keys: RandomState::new() }
    }

    /// Counts an attempt, unless there were too many.
    pub(super) fn take(&self, key: &impl Hash, now: Instant) -> bool {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let key = self.keys.hash_one(key);
        let is_known = places.until.contains_key(&key);
        if !is_known && places.until.len() >= self.most && places.searched.is_none_or(|at| now >= at + SEARCH) {
            places.until.retain(|_, until| *until > now);
            places.searched = Some(now);
        }
        let is_full = !is_known && places.until.len() >= self.most;
        let until = if is_full { places.shared } else { places.until.get(&key).copied() };
        let next = until.unwrap_or(now).max(now) + self.bound.pause;
        if next > now + self.bound.pause * self.bound.burst {
            return false;
        }
        match is_full {
            true => places.shared = Some(next),
            false => drop(places.until.insert(key, next)),
        }
        true
    }

    /// The attempt was right.
    pub(super) fn give_back(&self, key: &impl Hash, now: Instant) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let key = self.keys.hash_one(key);
        let less = |until: Instant| until.checked_sub(self.bound.pause).filter(|until| *until > now);
        match places.until.get(&key).copied() {
            Some(until) => match less(until) {
                Some(until) => drop(places.until.insert(key, until)),
                None => drop(places.until.remove(&key)),
            },
            None => places.shared = places.shared.and_then(less),
        }
    }
}

/// Failed attempts.
pub(super) struct Attempts {
    names: Counter,
    addresses: Counter,
    codes: Counter,
}

/// An attempt under way: counted as failed unless it says otherwise.
#[must_use]
pub(super) struct Attempt<'a> {
    attempts: &'a Attempts,
    name: String,
    address: IpAddr,
}

/// Whoever has an IPv6 address has all of its network.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) & !u128::from(u64::MAX)).into()),
        address => address,
    }
}

impl Attempts {
    pub(super) fn new() -> Self {
        Self {
            names: Counter::new(NAME, PLACES),
            addresses: Counter::new(ADDRESS, PLACES),
            codes: Counter::new(CODE, PLACES),
        }
    }

    /// Counts a passcode, unless too many were wrong.
    pub(super) fn take_code(&self, user: &str) -> bool {
        self.codes.take(&user, Instant::now())
    }

    /// The passcode was right.
    pub(super) fn right_code(&self, user: &str) {
        self.codes.give_back(&user, Instant::now());
    }

    /// # Errors
    /// `TooMany`.
    pub(super) fn begin(&self, name: &str, address: IpAddr) -> Answer<Attempt<'_>> {
        let (now, address) = (Instant::now(), network(address));
        let too_many =
            || Fault::new(FaultKind::TooMany, "too many failed logins of this name or from this address: wait a while");
        if !self.addresses.take(&address, now) {
            return Err(too_many());
        }
        if !self.names.take(&name, now) {
            // The address keeps its failure: whoever goes on trying is the one to wait.
            return Err(too_many());
        }
        Ok(Attempt { attempts: self, name: name.to_owned(), address })
    }
}

impl Attempt<'_> {
    /// It was no failure.
    pub(super) fn right(self) {
        let now = Instant::now();
        self.attempts.names.give_back(&self.name.as_str(), now);
        self.attempts.addresses.give_back(&self.address, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Bound = Bound { burst: 3, pause: Duration::from_secs(10) };

    #[test]
    fn failures_are_bounded_and_forgotten() {
        let counter = Counter::new(BOUND, 10);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let taken: Vec<bool> = (0..5).map(|_| counter.take(&"a", at(0))).collect();
        assert_eq!(taken, [true, true, true, false, false]);
        assert!(counter.take(&"b", at(0)));
        assert!(counter.take(&"a", at(10)) && !counter.take(&"a", at(10)));
        let taken: Vec<bool> = (0..4).map(|_| counter.take(&"a", at(100))).collect();
        assert_eq!(taken, [true, true, true, false]);
    }

    #[test]
    fn right_ones_never_meet_the_bound() {
        let counter = Counter::new(BOUND, 10);
        let now = Instant::now();
        for _ in 0..100 {
            assert!(counter.take(&"a", now));
            counter.give_back(&"a", now);
        }
        assert!(counter.places.lock().unwrap().until.is_empty());
    }

    #[test]
    fn memory_is_bounded() {
        let counter = Counter::new(BOUND, 10);
        let start = Instant::now();
        let refused = (0..1000).filter(|n| !counter.take(n, start)).count();
        assert_eq!((counter.places.lock().unwrap().until.len(), refused), (10, 987));
        counter.give_back(&999, start);
        assert!(counter.take(&1000, start) && !counter.take(&1001, start));
        // Those that are over make room.
        assert!(counter.take(&2000, start + Duration::from_secs(60)));
        assert_eq!(counter.places.lock().unwrap().until.len(), 1);
    }

    #[test]
    fn a_network_is_one_address() {
        let of = |text: &str| network(text.parse().unwrap()).to_string();
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!((of("10.0.0.1").as_str(), of("::ffff:10.0.0.1").as_str()), ("10.0.0.1", "10.0.0.1"));
        let attempts = Attempts::new();
        let address = "10.0.0.1".parse().unwrap();
        for _ in 0..10 {
            drop(attempts.begin("a", address).unwrap());
        }
        assert_eq!(attempts.begin("a", address).err().unwrap().kind, FaultKind::TooMany);
        attempts.begin("b", address).unwrap().right();
    }
}

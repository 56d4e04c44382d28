//! Where requests go: places of a slice, in order or at random.

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use rand_distr::{Distribution, Zipf};

use crate::bench::{Order, Spread};

/// A source of places.
pub(crate) struct Places {
    count: u64,
    kind: Kind,
    rng: SmallRng,
}

enum Kind {
    Sequential { next: u64 },
    Uniform,
    Zipf { ranks: Zipf<f64>, scatter: Scatter },
}

impl Places {
    /// Places 0 to `count`; the same seed gives the same places.
    pub(crate) fn new(order: Order, spread: Spread, count: u64, seed: u64) -> Self {
        let kind = match (order, spread) {
            (Order::Sequential, _) => Kind::Sequential { next: 0 },
            (Order::Random, Spread::Uniform) => Kind::Uniform,
            (Order::Random, Spread::Zipf(theta)) => match Zipf::new(count as f64, theta) {
                Ok(ranks) => Kind::Zipf { ranks, scatter: Scatter::new(count) },
                // Only without places.
                Err(_) => Kind::Uniform,
            },
        };
        Self { count, kind, rng: SmallRng::seed_from_u64(seed) }
    }

    /// The next place.
    pub(crate) fn next(&mut self) -> u64 {
        match &mut self.kind {
            Kind::Sequential { next } => {
                let place = *next;
                *next = if place + 1 < self.count { place + 1 } else { 0 };
                place
            }
            Kind::Uniform => self.rng.random_range(0..self.count),
            Kind::Zipf { ranks, scatter } => {
                let rank = ranks.sample(&mut self.rng) as u64;
                scatter.place(rank.clamp(1, self.count) - 1)
            }
        }
    }

    /// Whether the next request is a read, if so many in a hundred are.
    pub(crate) fn reads(&mut self, percent: u8) -> bool {
        match percent {
            0 => false,
            100.. => true,
            _ => self.rng.random_range(0..100) < percent,
        }
    }
}

/// A bijection of `0..count` that leaves no neighbours beside one another: frequent places would share nodes, pages and tracks otherwise.
struct Scatter {
    count: u64,
    factor: u64,
}

impl Scatter {
    fn new(count: u64) -> Self {
        // Near the golden ratio neighbours land far apart; a factor without a common divisor meets every place once.
        let mut factor = ((count as f64 * 0.618_033_988_749_895) as u64).max(1);
        while gcd(factor, count) != 1 {
            factor += 1;
        }
        Self { count, factor }
    }

    fn place(&self, rank: u64) -> u64 {
        (u128::from(rank) * u128::from(self.factor) % u128::from(self.count)) as u64
    }
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn counts(spread: Spread, places: u64, draws: u64) -> Vec<u64> {
        let mut source = Places::new(Order::Random, spread, places, 7);
        let mut counts = vec![0; places as usize];
        for _ in 0..draws {
            counts[source.next() as usize] += 1;
        }
        counts
    }

    #[test]
    fn sequential_places_come_in_order_and_again() {
        let mut source = Places::new(Order::Sequential, Spread::Uniform, 3, 1);
        let places: Vec<_> = (0..7).map(|_| source.next()).collect();
        assert_eq!(places, [0, 1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn uniform_places_are_met_equally_often() {
        let counts = counts(Spread::Uniform, 64, 640_000);
        // 10,000 expected; the standard deviation is 99.
        assert!(counts.iter().all(|count| (9_400..10_600).contains(count)), "{counts:?}");
    }

    #[test]
    fn zipf_follows_its_law_and_scatters() {
        for theta in [0.8, 1.0, 1.2] {
            let (places, draws) = (1000u64, 2_000_000);
            let counts = counts(Spread::Zipf(theta), places, draws);
            let scatter = Scatter::new(places);
            let zeta: f64 = (1..=places).map(|k| (k as f64).powf(-theta)).sum();
            for rank in [0, 1, 2, 4, 9, 49, 99] {
                let expected = draws as f64 * ((rank + 1) as f64).powf(-theta) / zeta;
                let found = counts[scatter.place(rank) as usize] as f64;
                let sigma = expected.sqrt();
                assert!((found - expected).abs() < 6.0 * sigma, "theta {theta}, rank {rank}: {found} for {expected}");
            }
            assert!(scatter.place(0).abs_diff(scatter.place(1)) > places / 4);
        }
    }

    #[test]
    fn scattering_meets_every_place_once() {
        for count in [1, 2, 3, 4, 97, 1000, 4096] {
            let scatter = Scatter::new(count);
            let met: BTreeSet<_> = (0..count).map(|rank| scatter.place(rank)).collect();
            assert_eq!(met.len() as u64, count);
        }
    }

    #[test]
    fn every_source_covers_small_sets_and_stays_within() {
        for spread in [Spread::Uniform, Spread::Zipf(0.5), Spread::Zipf(2.0)] {
            for count in [1, 2, 5] {
                let mut source = Places::new(Order::Random, spread, count, 3);
                let met: BTreeSet<_> = (0..20_000).map(|_| source.next()).collect();
                assert_eq!(met, (0..count).collect(), "{spread}");
            }
        }
    }

    #[test]
    fn mixes_keep_their_share() {
        let mut source = Places::new(Order::Random, Spread::Uniform, 10, 3);
        let reads = (0..100_000).filter(|_| source.reads(70)).count();
        assert!((69_000..71_000).contains(&reads), "{reads}");
        assert!((0..1000).all(|_| source.reads(100)) && !(0..1000).any(|_| source.reads(0)));
    }
}

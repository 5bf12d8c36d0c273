//! Which page is read next: uniform, zipf or sequential over `0..pages`. One picker per client thread, seeded, so that a
//! run can be repeated.
//!
//! Zipf is drawn by rejection-inversion (Hörmann and Derflinger 1996): exact for any exponent, constant memory, no
//! table of partial sums as long as the data set. Ranks are scattered over the pages by a fixed permutation, since
//! hot pages of a real database are not neighbours.

use std::fmt;
use std::str::FromStr;

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

/// How pages are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Access {
    /// Every page equally often.
    Uniform,
    /// The page of rank k with weight k^-exponent.
    Zipf {
        /// Above 0; 0.99 is what YCSB uses.
        exponent: f64,
    },
    /// Neighbours in order, from a random start, around the end.
    Sequential,
    /// Every page once, in an order without neighbours, from a random start; then again.
    Scattered,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Access::Uniform => f.write_str("uniform"),
            Access::Zipf { exponent } => write!(f, "zipf:{exponent}"),
            Access::Sequential => f.write_str("sequential"),
            Access::Scattered => f.write_str("scattered"),
        }
    }
}

impl FromStr for Access {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text
            .split_once(':')
            .map_or((text, None), |(a, b)| (a, Some(b)))
        {
            ("uniform", None) => Ok(Access::Uniform),
            ("sequential", None) => Ok(Access::Sequential),
            ("scattered", None) => Ok(Access::Scattered),
            ("zipf", exponent) => {
                let exponent = exponent.map_or(Ok(0.99), str::parse);
                match exponent {
                    Ok(exponent) if exponent > 0.0 && exponent < 10.0 => {
                        Ok(Access::Zipf { exponent })
                    }
                    _ => Err(format!("exponent of {text:?} is not between 0 and 10")),
                }
            }
            _ => Err(format!(
                "{text:?} is none of uniform, zipf[:EXPONENT], sequential, scattered"
            )),
        }
    }
}

/// Draws page numbers.
pub(crate) struct Picker {
    rng: ChaCha8Rng,
    pages: u64,
    state: State,
}

enum State {
    Uniform,
    Zipf {
        zipf: Zipf,
        scatter: Permutation,
    },
    Sequential {
        next: u64,
        scatter: Option<Permutation>,
    },
}

impl Picker {
    /// A picker over `0..pages`; pickers of one `seed` and different `stream`s draw independently.
    ///
    /// # Panics
    /// If `pages` is zero.
    pub(crate) fn new(access: Access, pages: u64, seed: u64, stream: u64) -> Self {
        assert!(pages > 0, "there is nothing to pick from");
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(stream);
        let state = match access {
            Access::Uniform => State::Uniform,
            Access::Zipf { exponent } => State::Zipf {
                zipf: Zipf::new(pages, exponent),
                scatter: Permutation::new(pages),
            },
            Access::Sequential | Access::Scattered => State::Sequential {
                next: below(&mut rng, pages),
                scatter: (access == Access::Scattered).then(|| Permutation::new(pages)),
            },
        };
        Self { rng, pages, state }
    }

    pub(crate) fn pick(&mut self) -> u64 {
        match &mut self.state {
            State::Uniform => below(&mut self.rng, self.pages),
            State::Zipf { zipf, scatter } => scatter.apply(zipf.draw(&mut self.rng) - 1),
            State::Sequential { next, scatter } => {
                let page = *next;
                *next = (page + 1) % self.pages;
                scatter.as_ref().map_or(page, |scatter| scatter.apply(page))
            }
        }
    }
}

/// A number below `bound`, by Lemire's multiplication; its bias is below `bound` / 2^64.
pub(crate) fn below(rng: &mut impl RngCore, bound: u64) -> u64 {
    ((u128::from(rng.next_u64()) * u128::from(bound)) >> 64) as u64
}

/// A number in 0.0..1.0.
fn unit(rng: &mut impl RngCore) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// Ranks 1..=n with probability proportional to rank^-exponent.
struct Zipf {
    n: f64,
    exponent: f64,
    h_first: f64,
    h_last: f64,
    squeeze: f64,
}

impl Zipf {
    fn new(n: u64, exponent: f64) -> Self {
        let n = n as f64;
        let mut zipf = Self {
            n,
            exponent,
            h_first: 0.0,
            h_last: 0.0,
            squeeze: 0.0,
        };
        zipf.h_first = zipf.integral(1.5) - 1.0;
        zipf.h_last = zipf.integral(n + 0.5);
        zipf.squeeze = 2.0 - zipf.integral_inverse(zipf.integral(2.5) - zipf.weight(2.0));
        zipf
    }

    fn draw(&self, rng: &mut impl RngCore) -> u64 {
        // Accepts more than nine draws of ten whatever the exponent.
        loop {
            let u = self.h_last + unit(rng) * (self.h_first - self.h_last);
            let x = self.integral_inverse(u);
            let rank = x.round().clamp(1.0, self.n);
            if rank - x <= self.squeeze || u >= self.integral(rank + 0.5) - self.weight(rank) {
                #[expect(clippy::cast_possible_truncation, reason = "a whole number in 1..=n")]
                #[expect(clippy::cast_sign_loss, reason = "a whole number in 1..=n")]
                let rank = rank as u64;
                return rank;
            }
        }
    }

    fn weight(&self, x: f64) -> f64 {
        (-self.exponent * x.ln()).exp()
    }

    /// The integral of `weight` from 1 to x, by expm1 so that exponents near 1 keep their digits.
    fn integral(&self, x: f64) -> f64 {
        let log = x.ln();
        let t = (1.0 - self.exponent) * log;
        if t.abs() < 1e-8 {
            log * (1.0 + t / 2.0)
        } else {
            t.exp_m1() / t * log
        }
    }

    fn integral_inverse(&self, y: f64) -> f64 {
        let t = (y * (1.0 - self.exponent)).max(-1.0);
        let ratio = if t.abs() < 1e-8 {
            1.0 - t / 2.0
        } else {
            t.ln_1p() / t
        };
        (ratio * y).exp()
    }
}

/// A fixed permutation of `0..n`: four Feistel rounds over the next power of four, walked until it falls inside.
struct Permutation {
    n: u64,
    half_bits: u32,
}

impl Permutation {
    fn new(n: u64) -> Self {
        let bits = 64 - (n - 1).max(1).leading_zeros();
        Self {
            n,
            half_bits: bits.div_ceil(2),
        }
    }

    fn apply(&self, value: u64) -> u64 {
        let mask = (1u64 << self.half_bits) - 1;
        let mut value = value;
        loop {
            let (mut left, mut right) = (value >> self.half_bits, value & mask);
            for round in 1..=4u64 {
                let mixed = mix(right ^ (round << 56)) & mask;
                (left, right) = (right, left ^ mixed);
            }
            value = left << self.half_bits | right;
            if value < self.n {
                return value;
            }
        }
    }
}

/// The finalizer of SplitMix64.
pub(crate) fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zipf_ranks_come_as_often_as_the_law_says() {
        const N: usize = 1000;
        const DRAWS: u32 = 400_000;
        for exponent in [0.5, 0.99, 1.0, 1.3] {
            let zipf = Zipf::new(N as u64, exponent);
            let mut rng = ChaCha8Rng::seed_from_u64(7);
            let mut counts = vec![0u32; N + 1];
            for _ in 0..DRAWS {
                counts[usize::try_from(zipf.draw(&mut rng)).expect("small")] += 1;
            }
            let total: f64 = (1..=N).map(|k| (k as f64).powf(-exponent)).sum();
            // The first ranks one by one, the tail in two sums: five standard deviations each.
            let check = |ranks: std::ops::RangeInclusive<usize>| {
                let p: f64 = ranks
                    .clone()
                    .map(|k| (k as f64).powf(-exponent) / total)
                    .sum();
                let got: u32 = counts[ranks.clone()].iter().sum();
                let want = p * f64::from(DRAWS);
                let sigma = (want * (1.0 - p)).sqrt();
                assert!(
                    (f64::from(got) - want).abs() < 5.0 * sigma,
                    "exponent {exponent}, ranks {ranks:?}: {got}, expected {want:.0} ± {sigma:.0}"
                );
            };
            (1..=10).for_each(|k| check(k..=k));
            check(11..=100);
            check(101..=N);
        }
    }

    #[test]
    fn the_scatter_is_a_permutation() {
        for n in [1, 2, 3, 5, 64, 1000, 4097] {
            let permutation = Permutation::new(n);
            let mut images: Vec<u64> = (0..n).map(|v| permutation.apply(v)).collect();
            images.sort_unstable();
            assert!(images.into_iter().eq(0..n), "n = {n}");
        }
    }

    #[test]
    fn uniform_covers_everything_evenly_and_sequential_wraps() {
        let mut picker = Picker::new(Access::Uniform, 50, 1, 0);
        let mut counts = [0u32; 50];
        (0..50_000).for_each(|_| counts[usize::try_from(picker.pick()).expect("small")] += 1);
        // 1,000 each, sigma 31: six of them.
        assert!(
            counts.iter().all(|&c| (810..1190).contains(&c)),
            "{counts:?}"
        );

        let mut picker = Picker::new(Access::Sequential, 7, 1, 0);
        let first = picker.pick();
        for i in 1..20 {
            assert_eq!(picker.pick(), (first + i) % 7);
        }
        let mut picker = Picker::new(Access::Scattered, 1000, 1, 0);
        let picked: Vec<u64> = (0..1000).map(|_| picker.pick()).collect();
        assert!(picked.windows(2).filter(|w| w[0] + 1 == w[1]).count() < 10);
        assert_eq!(
            std::collections::HashSet::<u64>::from_iter(picked).len(),
            1000
        );
    }

    #[test]
    fn streams_of_one_seed_differ_and_repeat() {
        let draw = |stream| -> Vec<u64> {
            let mut picker = Picker::new(Access::Zipf { exponent: 0.99 }, 1 << 20, 3, stream);
            (0..100).map(|_| picker.pick()).collect()
        };
        assert_eq!(draw(0), draw(0));
        assert_ne!(draw(0), draw(1));
    }

    #[test]
    fn names_of_access_parse_back_and_nonsense_is_refused() {
        for access in [
            Access::Uniform,
            Access::Sequential,
            Access::Scattered,
            Access::Zipf { exponent: 1.2 },
        ] {
            assert_eq!(access.to_string().parse::<Access>(), Ok(access));
        }
        assert_eq!(
            "zipf".parse::<Access>(),
            Ok(Access::Zipf { exponent: 0.99 })
        );
        for bad in ["", "zipf:", "zipf:0", "zipf:nan", "uniform:1", "random"] {
            assert!(bad.parse::<Access>().is_err(), "{bad} parsed");
        }
    }
}

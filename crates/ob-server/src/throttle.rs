//! How often someone may ask: each token after it was recognised, each address while it is not.
//!
//! ```text
//! request --> address kept out? --429--> (before anything is looked up; never on loopback, which everyone here shares)
//!         --> whose secret? --nobody's--> one off the address's bucket: 401, or 429 when it is empty
//!                           --a token's-> one off the token's bucket:   go on, or 429 when it is empty
//! ```
//!
//! Buckets are GCRA (`governor`), found by key. Memory is bounded by forgetting who asked longest ago: whoever is
//! forgotten has a full bucket again, so a crowd of strangers can never shut out a token.

use std::hash::Hash;
use std::net::IpAddr;
use std::net::Ipv6Addr;
use std::num::NonZeroU32;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use governor::Quota;
use governor::RateLimiter;
use governor::clock::Clock;
use governor::clock::MonotonicClock;
use governor::middleware::NoOpMiddleware;
use governor::state::InMemoryState;
use governor::state::NotKeyed;
use hashlink::LruCache;
use ob_core::Refusal;
use ob_core::RefusalCode;
use ob_core::TokenId;
use tokio::sync::watch;

/// Keys with a bucket at a time, for tokens and for addresses; about 200 bytes each.
const KEYS_MAX: usize = 8192;

/// How often one may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Requests in 1000 seconds, as a steady rate. At least 1.
    pub per_1000_s: NonZeroU32,
    /// Requests at once, by someone who has not asked for a while.
    pub burst: NonZeroU32,
}

/// Why a request was not let in, and when another may be.
#[derive(Debug)]
pub struct Denied {
    /// Why not.
    pub refusal: Refusal,
    /// Set if it was one request too many.
    pub retry_after: Option<Duration>,
}

/// Where a stranger comes from: an address, or for IPv6 the network that one site has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Origin(IpAddr);

/// The buckets of everyone.
pub struct Throttle<C: Clock = MonotonicClock> {
    limit: watch::Receiver<RateLimit>,
    clock: C,
    // Std locks: each is held for one look-up, never across an await.
    tokens: Mutex<Buckets<TokenId, C>>,
    strangers: Mutex<Buckets<Origin, C>>,
}

/// The buckets of one kind of key.
struct Buckets<K, C: Clock> {
    /// What the buckets were made with; they are made anew when that changes.
    limit: RateLimit,
    by_key: LruCache<K, Bucket<C>>,
}

struct Bucket<C: Clock> {
    rate: RateLimiter<NotKeyed, InMemoryState, C, NoOpMiddleware<C::Instant>>,
    /// Set when the bucket was found empty.
    empty_until: Option<C::Instant>,
}

// === impl RateLimit ===

impl RateLimit {
    /// Ten a second, and twenty at once.
    pub const DEFAULT: Self = Self {
        per_1000_s: NonZeroU32::new(10_000).expect("not 0"),
        burst: NonZeroU32::new(20).expect("not 0"),
    };

    fn quota(self) -> Quota {
        // A rate of thousands a second is a period of some microseconds; never of nothing, which is no quota.
        let period = (Duration::from_secs(1000) / self.per_1000_s.get()).max(Duration::from_nanos(1));
        Quota::with_period(period).unwrap_or(Quota::per_second(NonZeroU32::MAX)).allow_burst(self.burst)
    }
}

// === impl Denied ===

impl Denied {
    fn too_many(what: &str, wait: Duration) -> Self {
        let message = format!("too many requests {what}");
        let refusal = Refusal::new(RefusalCode::LimitExceeded, message)
            .fix("wait as long as `Retry-After` says, or have `rate_limit` raised");
        Self { refusal, retry_after: Some(wait) }
    }
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, retry_after: None }
    }
}

// === impl Origin ===

impl Origin {
    /// Where an address belongs.
    pub(crate) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(v6) if !v6.is_loopback() => {
                let [a, b, c, d, ..] = v6.segments();
                Self(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into())
            }
            address => Self(address),
        }
    }

    /// True for this machine.
    pub(crate) fn is_loopback(self) -> bool {
        self.0.is_loopback()
    }
}

// === impl Throttle ===

impl Throttle {
    /// Buckets by this limit, as it is at each request.
    pub fn new(limit: watch::Receiver<RateLimit>) -> Self {
        Self::with_clock(limit, MonotonicClock)
    }
}

impl<C: Clock + Clone> Throttle<C> {
    fn with_clock(limit: watch::Receiver<RateLimit>, clock: C) -> Self {
        let now = *limit.borrow();
        Self { limit, clock, tokens: Mutex::new(Buckets::new(now)), strangers: Mutex::new(Buckets::new(now)) }
    }

    /// Refuses an address that has asked too often without being anybody, before it is looked up who asks now.
    pub(crate) fn admit(&self, origin: Origin) -> Result<(), Denied> {
        if origin.is_loopback() {
            return Ok(());
        }
        let limit = *self.limit.borrow();
        let mut strangers = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        match strangers.empty_for(limit, &self.clock, &origin) {
            None => Ok(()),
            Some(wait) => Err(Denied::too_many("without a valid token from this address", wait)),
        }
    }

    /// Counts a request of a stranger.
    pub(crate) fn stranger(&self, origin: Origin) -> Result<(), Denied> {
        let limit = *self.limit.borrow();
        let mut strangers = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        strangers
            .take(limit, &self.clock, origin)
            .map_err(|wait| Denied::too_many("without a valid token from this address", wait))
    }

    /// Counts a request of a token.
    pub fn token(&self, token: &TokenId) -> Result<(), Denied> {
        let limit = *self.limit.borrow();
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens
            .take(limit, &self.clock, token.clone())
            .map_err(|wait| Denied::too_many("with this token", wait))
    }
}

// === impl Buckets ===

impl<K: Hash + Eq, C: Clock + Clone> Buckets<K, C> {
    fn new(limit: RateLimit) -> Self {
        Self { limit, by_key: LruCache::new_unbounded() }
    }

    /// Takes one, or tells how long until there is one.
    fn take(&mut self, limit: RateLimit, clock: &C, key: K) -> Result<(), Duration> {
        self.follow(limit);
        let bucket = self.by_key.entry(key).or_insert_with(|| Bucket {
            rate: RateLimiter::direct_with_clock(limit.quota(), clock.clone()),
            empty_until: None,
        });
        let taken = bucket.rate.check().map_err(|empty| {
            bucket.empty_until = Some(empty.earliest_possible());
            empty.wait_time_from(clock.now())
        });
        while self.by_key.len() > KEYS_MAX {
            self.by_key.remove_lru();
        }
        taken
    }

    /// How long until there is one, if the last take found none.
    fn empty_for(&mut self, limit: RateLimit, clock: &C, key: &K) -> Option<Duration> {
        use governor::clock::Reference as _;
        self.follow(limit);
        let until = self.by_key.get(key)?.empty_until?;
        let wait = Duration::from(until.duration_since(clock.now()));
        (!wait.is_zero()).then_some(wait)
    }

    fn follow(&mut self, limit: RateLimit) {
        if self.limit != limit {
            self.limit = limit;
            self.by_key.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    fn limit(per_second: u32, burst: u32) -> RateLimit {
        let of = |n: u32| NonZeroU32::new(n).expect("not 0");
        RateLimit { per_1000_s: of(per_second * 1000), burst: of(burst) }
    }

    fn throttle(at_first: RateLimit) -> (Throttle<FakeRelativeClock>, watch::Sender<RateLimit>) {
        let limit = watch::Sender::new(at_first);
        (Throttle::with_clock(limit.subscribe(), FakeRelativeClock::default()), limit)
    }

    fn origin(address: &str) -> Origin {
        Origin::of(address.parse().expect("an address"))
    }

    #[test]
    fn a_token_has_its_burst_and_then_its_rate() {
        let (throttle, _limit) = throttle(RateLimit::DEFAULT);
        let (one, other) = (TokenId::new(1), TokenId::new(2));
        for n in 0..20 {
            assert!(throttle.token(&one).is_ok(), "{n} of the burst");
        }
        let denied = throttle.token(&one).expect_err("the burst is over");
        assert_eq!(denied.refusal.code, RefusalCode::LimitExceeded);
        assert_eq!(denied.retry_after, Some(Duration::from_millis(100)));
        assert!(throttle.token(&other).is_ok(), "another token has its own");
        throttle.clock.advance(Duration::from_millis(100));
        assert!(throttle.token(&one).is_ok(), "a tenth of a second is one request");
        assert!(throttle.token(&one).is_err());
    }

    #[test]
    fn an_address_that_nobody_knows_is_kept_out_until_its_bucket_has_one_again() {
        let (throttle, _limit) = throttle(limit(1, 3));
        let stranger = origin("192.0.2.7");
        for _ in 0..3 {
            assert!(throttle.admit(stranger).is_ok());
            assert!(throttle.stranger(stranger).is_ok());
        }
        assert!(throttle.admit(stranger).is_ok(), "it may still be somebody");
        assert!(throttle.stranger(stranger).is_err(), "and was nobody once too often");
        let denied = throttle.admit(stranger).expect_err("kept out");
        assert_eq!(denied.retry_after, Some(Duration::from_secs(1)));
        assert!(throttle.admit(origin("192.0.2.8")).is_ok(), "the neighbour is not");
        throttle.clock.advance(Duration::from_secs(1));
        assert!(throttle.admit(stranger).is_ok());
    }

    #[test]
    fn loopback_is_counted_and_never_kept_out() {
        let (throttle, _limit) = throttle(limit(1, 1));
        for here in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            let here = origin(here);
            throttle.stranger(here).ok();
            assert!(throttle.stranger(here).is_err());
            assert!(throttle.admit(here).is_ok());
        }
    }

    #[test]
    fn a_site_has_one_bucket_for_all_its_addresses() {
        assert_eq!(origin("2001:db8:1:2::1"), origin("2001:db8:1:2:ffff::9"));
        assert_ne!(origin("2001:db8:1:2::1"), origin("2001:db8:1:3::1"));
        assert_eq!(origin("::ffff:192.0.2.1"), origin("192.0.2.1"));
        assert_ne!(origin("192.0.2.1"), origin("192.0.2.2"));
    }

    #[test]
    fn memory_is_bounded_and_a_crowd_shuts_out_nobody() {
        let (throttle, _limit) = throttle(limit(1, 1));
        let token = TokenId::new(u64::MAX);
        assert!(throttle.token(&token).is_ok());
        for n in 0..3 * KEYS_MAX as u32 {
            throttle.stranger(Origin(IpAddr::V4(n.into()))).ok();
            assert!(throttle.token(&TokenId::new(n.into())).is_ok());
        }
        assert_eq!(throttle.strangers.lock().expect("no panic").by_key.len(), KEYS_MAX);
        assert_eq!(throttle.tokens.lock().expect("no panic").by_key.len(), KEYS_MAX);
        assert!(throttle.token(&token).is_ok(), "forgotten, so its bucket is full again");
    }

    #[test]
    fn another_limit_is_taken_at_once() {
        let (throttle, limit_of) = throttle(limit(1, 1));
        let token = TokenId::new(1);
        assert!(throttle.token(&token).is_ok());
        assert!(throttle.token(&token).is_err());
        limit_of.send_replace(limit(1, 3));
        for _ in 0..3 {
            assert!(throttle.token(&token).is_ok());
        }
        assert!(throttle.token(&token).is_err());
    }

    #[test]
    fn the_highest_rate_is_still_a_rate() {
        let (throttle, _limit) = throttle(RateLimit { per_1000_s: NonZeroU32::MAX, burst: NonZeroU32::MAX });
        assert!((0..1000).all(|_| throttle.token(&TokenId::new(1)).is_ok()));
    }
}

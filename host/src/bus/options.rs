//! What a subscriber asks for: which messages, how many may lie waiting, and what happens to the next one.

use oxide_plugin_api::Filter;

/// What happens to a message when the subscription it is for is full. Either way somebody is told: the
/// publisher, by having to wait, or the subscriber, by [`Subscription::missed`](super::Subscription::missed).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// The publisher waits until there is room. Nothing is lost, and whoever came first goes first.
    ///
    /// A subscriber that stops receiving then stops its publishers: choose this where that is better than a
    /// gap. The manager's announcements never wait: they go beyond the capacity.
    Wait,
    /// The oldest message makes room and is counted as missed. Nobody waits.
    #[default]
    DropOldest,
}

/// How to subscribe; see [`MessageBus::subscribe_with`](super::MessageBus::subscribe_with).
///
/// ```
/// use oxide_host::bus::{Filter, Overflow, SubscribeOptions};
///
/// let options = SubscribeOptions::new().filter(Filter::events()).capacity(16).overflow(Overflow::Wait);
/// assert_eq!(options.capacity, 16);
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SubscribeOptions {
    /// Which messages; the default is all.
    pub filter: Filter,
    /// How many messages may lie waiting; the default is [`SubscribeOptions::DEFAULT_CAPACITY`]. A capacity
    /// of 0 counts as 1. No memory is set aside for it.
    pub capacity: usize,
    /// What happens beyond that.
    pub overflow: Overflow,
}

impl SubscribeOptions {
    /// The capacity of a subscription that did not ask for another.
    pub const DEFAULT_CAPACITY: usize = 1024;

    /// Everything, with the default capacity, dropping the oldest: what `subscribe` uses.
    pub fn new() -> Self {
        Self { filter: Filter::all(), capacity: Self::DEFAULT_CAPACITY, overflow: Overflow::default() }
    }

    /// Wants only messages that match `filter`. The others are as if they had never been published.
    #[must_use]
    pub fn filter(mut self, filter: Filter) -> Self {
        self.filter = filter;
        self
    }

    /// Lets `capacity` messages lie waiting.
    #[must_use]
    pub fn capacity(mut self, capacity: usize) -> Self {
        self.capacity = capacity;
        self
    }

    /// Says what happens beyond the capacity.
    #[must_use]
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.overflow = overflow;
        self
    }
}

impl Default for SubscribeOptions {
    fn default() -> Self {
        Self::new()
    }
}

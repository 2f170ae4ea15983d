//! `GET /v1/events`: the bus, as server-sent events or as the last messages there were.

use std::{convert::Infallible, sync::Arc};

use axum::{
    extract::State,
    http::header::CONTENT_TYPE,
    response::{
        IntoResponse,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::{Stream, stream};
use oxide_plugin_api::{Envelope, Filter, Message, MessageClass};
use serde::Deserialize;
use tokio::sync::watch;
use uuid::Uuid;

use super::{answer::Answer, api::App, extract::Params};
use crate::bus::{SubscribeOptions, Subscription};

/// The query. The conditions are those of a [`Filter`]: all that are given must hold.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// Whether to stay and send what comes, or to send what was and end.
    #[serde(default = "yes")]
    follow: bool,
    class: Option<MessageClass>,
    source: Option<String>,
    module_id: Option<String>,
    kind: Option<String>,
    correlation_id: Option<Uuid>,
}

fn yes() -> bool {
    true
}

impl Wanted {
    fn filter(self) -> Filter {
        let mut filter = Filter::all();
        filter.class = self.class;
        filter.source = self.source;
        filter.module_id = self.module_id;
        filter.kind = self.kind;
        filter.correlation_id = self.correlation_id;
        filter
    }
}

pub(super) async fn events(State(app): State<Arc<App>>, Params(wanted): Params<Wanted>) -> Answer {
    if !wanted.follow {
        let filter = wanted.filter();
        let mut recent = app.journal.recent();
        if filter != Filter::all() {
            recent.retain(|line| {
                serde_json::from_str::<Envelope>(line).is_ok_and(|envelope| filter.matches(&envelope))
            });
        }
        let array = format!("[{}]", recent.join(","));
        return Ok(([(CONTENT_TYPE, "application/json")], array).into_response());
    }
    // A follower that is too slow misses messages and is told so; it never holds up a publisher.
    let options = SubscribeOptions::new().filter(wanted.filter());
    let subscription = app.host.bus().subscribe_with(options).await;
    let stream = follow(subscription, app.ended.clone());
    Ok(Sse::new(stream).keep_alive(KeepAlive::default()).into_response())
}

fn follow(
    subscription: Subscription,
    ended: watch::Receiver<bool>,
) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold((subscription, ended, 0), async |(mut subscription, mut ended, told)| {
        let missed = subscription.missed();
        let event = if missed > told {
            Event::default().event("missed").data(format!(r#"{{"missed":{}}}"#, missed - told))
        } else {
            tokio::select! {
                biased;
                envelope = subscription.receiver.recv() => event(&envelope?),
                // The host has ended: what it said until then has been sent.
                _ = ended.wait_for(|ended| *ended) => return None,
            }
        };
        Some((Ok(event), (subscription, ended, missed)))
    })
}

fn event(envelope: &Envelope) -> Event {
    let class = match envelope.message {
        Message::Command(_) => "command",
        Message::Event(_) => "event",
    };
    let data = serde_json::to_string(envelope).unwrap_or_default();
    Event::default().event(class).id(envelope.id.to_string()).data(data)
}

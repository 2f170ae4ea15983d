//! The bus that `init` is given.

use oxide_plugin_api::{ErrorKind, serde_json::json};

use super::*;

fn running(host: &TestHost, id: &str) -> (oxide_plugin_api::testing::TestModule<Probe>, MessageBus) {
    let probe = host.load_and_start(Probe::named(id)).unwrap();
    let bus = probe.module().bus.clone().unwrap();
    (probe, bus)
}

/// Runs a future on the host's threads, since a bus has async functions only.
fn wait<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> T {
    let (sender, receiver) = std::sync::mpsc::channel();
    drop(task::spawn(async move { drop(sender.send(future.await)) }));
    receiver.recv_timeout(LONG).expect("an end")
}

#[test]
fn the_source_is_the_modules_id_whatever_it_says() {
    let host = TestHost::new();
    let (_probe, bus) = running(&host, "honest");
    let id = wait(async move { bus.emit_event("kernel", custom("honest", "news")).await.unwrap() });
    let news = host.next_event(Filter::all().kind("news"), LONG).unwrap();
    assert_eq!((news.source.as_str(), news.id), ("honest", id));
    assert!(host.next_event(Filter::all().kind("news"), Duration::ZERO).is_none());
    assert_eq!(host.published_by("honest"), [news]);
}

#[test]
fn a_subscription_gets_what_its_filter_wants_and_counts_what_it_missed() {
    let host = TestHost::builder().subscription_capacity(2).build();
    let (probe, bus) = running(&host, "listener");
    let mut subscription = wait(async move { bus.subscribe(Filter::all().kind("news")).await.unwrap() });
    for (kind, source) in [("news", "1"), ("noise", "2"), ("news", "3"), ("news", "4")] {
        host.publish(Envelope::new(source, custom("anybody", kind)));
    }
    assert_eq!(subscription.missed(), 1);
    let (subscription, sources) = wait(async move {
        let mut sources = Vec::new();
        for _ in 0..2 {
            sources.push(subscription.receiver.recv().await.unwrap().source);
        }
        (subscription, sources)
    });
    assert_eq!(sources, ["3", "4"]);

    let mut receiver = subscription.receiver;
    let waiting = std::thread::spawn(move || wait(async move { receiver.recv().await }));
    drop(probe);
    assert!(waiting.join().unwrap().is_none());
}

#[test]
fn a_request_gets_the_answer_of_the_test() {
    let host = TestHost::new();
    host.answer(|command| match command {
        Command::Invoke { module_id, method, payload } if method == "double" => {
            Some(Event::InvokeCompleted {
                module_id: module_id.clone(),
                payload: json!(payload.as_i64()? * 2),
            })
        }
        Command::Invoke { method, .. } if method == "fall" => panic!("fell"),
        _ => None,
    });
    host.answer(|command| {
        let module_id = command.module_id()?.to_owned();
        Some(Event::CommandFailed { module_id: Some(module_id), error: "not today".into() })
    });
    let (_probe, bus) = running(&host, "asker");
    let (doubled, failed, fell, pong) = wait(async move {
        (
            bus.invoke("math", "double", json!(21)).await,
            bus.request(Command::Start { module_id: "math".into() }).await,
            bus.invoke("math", "fall", json!(null)).await,
            bus.request(Command::Ping).await,
        )
    });
    assert_eq!(doubled.unwrap(), 42);
    assert_eq!(failed.unwrap_err().to_string(), "not today");
    assert!(fell.unwrap_err().to_string().starts_with("the test's answer panicked: fell"));
    assert_eq!(pong.unwrap(), Event::Pong { from: "kernel".into() });
}

#[test]
fn a_request_without_an_answer_ends_at_its_limit() {
    let host = TestHost::new();
    let (_probe, bus) = running(&host, "asker");
    let command = Command::Stop { module_id: "nobody".into() };
    let answer = wait(async move { bus.request_within(command, Duration::from_millis(20)).await });
    assert!(answer.unwrap_err().to_string().starts_with("no answer came within 20ms"));
}

#[test]
fn a_test_may_answer_by_hand() {
    let host = TestHost::new();
    let (_probe, bus) = running(&host, "asker");
    let asking = std::thread::spawn(move || {
        wait(async move { bus.request(Command::Stop { module_id: "other".into() }).await })
    });
    let command = host.next_command(Filter::all().about("other"), LONG).unwrap();
    assert_eq!(command.source, "asker");
    let stopped = Event::ModuleStopped { module_id: "other".into() };
    host.publish(Envelope::new("kernel", stopped.clone()).answering(command.id));
    assert_eq!(asking.join().unwrap().unwrap(), stopped);
}

#[test]
fn modules_of_one_host_hear_each_other() -> Result<()> {
    let host = TestHost::new();
    let (sender, bus) = running(&host, "sender");
    let (receiver, _) = running(&host, "receiver");
    let (stranger, _) = running(&TestHost::new(), "receiver");
    wait(async move {
        bus.emit_event("", custom("receiver", "hello")).await.unwrap();
        bus.emit_event("", custom("sender", "to_myself")).await.unwrap();
        bus.send_command("", Command::Start { module_id: "receiver".into() }).await.unwrap();
    });
    assert_eq!((receiver.deliver()?, sender.deliver()?, stranger.deliver()?), (1, 0, 0));
    assert_eq!(receiver.module().trace.lock().unwrap().last().unwrap(), "on_message hello from sender");
    assert_eq!(receiver.deliver()?, 0);
    Ok(())
}

#[test]
fn an_answer_may_call_another_module() -> Result<()> {
    let host = TestHost::new();
    let (asker, bus) = running(&host, "asker");
    let (other, _) = running(&TestHost::new(), "other");
    host.answer(move |command| {
        let Command::Invoke { module_id, method, payload } = command else { return None };
        let payload = other.invoke(method, Payload::json(payload).ok()?).ok()?.to_json().ok()?;
        Some(Event::InvokeCompleted { module_id: module_id.clone(), payload })
    });
    assert_eq!(
        wait(async move { bus.invoke("other", "echo", json!({ "a": [1] })).await })?,
        json!({ "a": [1] })
    );
    drop(asker);
    Ok(())
}

#[test]
fn a_bus_that_outlives_its_module_is_closed() {
    let host = TestHost::new();
    let (probe, bus) = running(&host, "gone");
    drop(probe);
    let outcome = wait(async move {
        let published = bus.emit_event("gone", custom("gone", "late")).await;
        let subscribed = bus.subscribe(Filter::all()).await;
        let asked = bus.request(Command::Ping).await;
        [published.err(), subscribed.err(), asked.err()]
    });
    for error in outcome {
        let error = error.unwrap();
        assert_eq!((error.kind(), error.message()), (ErrorKind::Failed, "the host has closed this"));
    }
    assert!(host.published_by("gone").is_empty());
}

#[test]
fn the_test_has_a_bus_too() {
    let host = TestHost::new();
    let bus = host.bus();
    wait(async move { bus.emit_event("anybody", custom("probe", "hello")).await }).unwrap();
    assert_eq!(host.published_by("test").len(), 1);
}

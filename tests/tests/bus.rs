//! Plugins on the bus: who says what, who is answered, and that nothing is lost in silence.

use std::{sync::Arc, time::Duration};

use oxide_host::{
    Host,
    bus::{Command, Event, Filter, Message, SubscribeOptions},
    error::KernelError,
    module::ModuleState,
    prelude::async_trait,
};
use oxide_tests::{Flag, SHORT, in_time, load_misbehaving, misbehave::options, misbehaving, next_event};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

const LIMIT: Duration = Duration::from_secs(60);

async fn host(ids: &[&str]) -> Host {
    let host = Host::new().unwrap();
    for id in ids {
        load_misbehaving(&host, id, json!({})).await.unwrap();
    }
    host
}

fn custom(module_id: &str, kind: &str, payload: Value) -> Event {
    Event::Custom { module_id: module_id.into(), kind: kind.into(), payload }
}

fn invoke(module_id: &str, method: &str, payload: impl Into<Value>) -> Command {
    Command::Invoke { module_id: module_id.into(), method: method.into(), payload: payload.into() }
}

/// The deed by which one plugin calls another over the bus.
fn calling(module: &str, method: &str, payload: &str) -> String {
    json!({ "module": module, "method": method, "payload": payload }).to_string()
}

#[tokio::test]
async fn a_plugin_speaks_under_its_own_name_whatever_it_says() {
    let host = host(&["m"]).await;
    let options = SubscribeOptions::new().filter(Filter::all().kind("forged"));
    let mut events = host.bus().subscribe_with(options).await;
    // It says that it is somebody else.
    host.invoke("m", "publish", "forged").await.unwrap();
    let envelope = in_time(events.receiver.recv()).await.unwrap();
    assert_eq!(envelope.source, "m");
    assert_eq!(envelope.message, Message::Event(custom("m", "forged", json!(1))));
}

#[tokio::test]
async fn one_plugin_calls_another() {
    let host = host(&["a", "b"]).await;
    let reply = in_time(host.invoke("a", "invoke", calling("b", "say", "hello"))).await.unwrap();
    assert_eq!(reply.to_json::<Value>().unwrap(), json!("hello"));
    // What goes wrong over there is an error here.
    let mut tellings = Vec::new();
    for (module, method) in [("b", "panic"), ("b", "fail"), ("b", "no such"), ("nobody", "say")] {
        let error = in_time(host.invoke("a", "invoke", calling(module, method, ""))).await.unwrap_err();
        tellings.push(oxide_tests::told(&error));
    }
    insta::assert_snapshot!(tellings.join("\n"), @r#"
    error[hook_failed]: invoke of module `a` failed: invoke of module `b` panicked: panicked as ordered, at tests/bad-plugins/misbehaving/src/lib.rs:LINE
    error[hook_failed]: invoke of module `a` failed: invoke of module `b` failed: failed as ordered
    error[hook_failed]: invoke of module `a` failed: module `b` has no method `no such`
    error[hook_failed]: invoke of module `a` failed: no module has the id `nobody`
    "#);
}

#[tokio::test]
async fn a_chain_of_calls_may_come_back_to_where_it_began() {
    let host = host(&["a", "b"]).await;
    let back = calling("b", "invoke", &calling("a", "say", "round"));
    let reply = in_time(host.invoke("a", "invoke", back)).await.unwrap();
    assert_eq!(reply.to_json::<Value>().unwrap(), json!("round"));
    let to_itself = calling("a", "say", "me");
    let reply = in_time(host.invoke("a", "invoke", to_itself)).await.unwrap();
    assert_eq!(reply.to_json::<Value>().unwrap(), json!("me"));
}

#[tokio::test]
async fn a_chain_comes_back_also_in_the_middle_of_an_unload() {
    let host = host(&["a", "b"]).await;
    let flag = Flag::new();
    let back = calling("b", "invoke", &calling("a", "say", "round"));
    let deeds = json!([flag.deed("wait"), format!("invoke:{back}")]).to_string();
    let call = tokio::spawn({
        let host = host.clone();
        async move { host.invoke("a", "do", deeds).await }
    });
    flag.inside().await;
    let unload = tokio::spawn({
        let host = host.clone();
        async move { host.unload("a").await }
    });
    in_time(async {
        while host.invoke("a", "say", "").await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    flag.go_on();
    let reply = in_time(call).await.unwrap().unwrap();
    assert_eq!(reply.to_json::<Value>().unwrap(), json!("round"));
    assert_eq!(in_time(unload).await.unwrap().unwrap().cancelled, 0);
}

#[tokio::test]
async fn a_module_may_ask_for_its_own_stop_and_is_answered_before_it() {
    let host = host(&["m"]).await;
    let mut events = host.bus().subscribe().await;
    let stop = serde_json::to_string(&Command::Stop { module_id: "m".into() }).unwrap();
    let reply = in_time(host.invoke("m", "request", stop)).await.unwrap();
    assert_eq!(reply.to_json::<Event>().unwrap(), Event::CommandScheduled { module_id: "m".into() });
    next_event(&mut events, |event| *event == Event::ModuleStopped { module_id: "m".into() }).await;
    assert_eq!(host.modules().state("m").await, Some(ModuleState::Stopped));
}

/// Waits for its own stop, which cannot be.
struct Impatient(Arc<OnceCell<Host>>);

#[async_trait]
impl oxide_host::module::Module for Impatient {
    fn metadata(&self) -> oxide_host::module::ModuleMetadata {
        oxide_host::module::ModuleMetadata {
            id: "impatient".into(),
            name: "Impatient".into(),
            version: "1.0.0".into(),
            kind: oxide_host::module::ModuleKind::Native,
            description: None,
        }
    }

    async fn start(&mut self) -> oxide_host::error::Result<()> {
        Ok(())
    }

    async fn stop(&mut self) -> oxide_host::error::Result<()> {
        Ok(())
    }

    async fn invoke(
        &self,
        method: &str,
        payload: oxide_host::Payload,
    ) -> oxide_host::error::Result<oxide_host::Payload> {
        let host = self.0.get().ok_or_else(|| KernelError::new("no host yet"))?;
        match method {
            "stop" => host.stop("impatient").await?,
            "unload" => drop(host.unload("impatient").await?),
            // The plugin calls back over the bus.
            _ => return host.invoke("m", "invoke", payload).await,
        }
        Ok(payload)
    }
}

#[tokio::test]
async fn waiting_for_ones_own_end_is_an_error_and_no_deadlock() {
    let host = host(&["m"]).await;
    let cell = Arc::new(OnceCell::new());
    host.modules().register_native(Impatient(cell.clone())).await.unwrap();
    host.start("impatient").await.unwrap();
    cell.set(host.clone()).unwrap();
    let mut tellings = Vec::new();
    for method in ["stop", "unload"] {
        let error = in_time(host.invoke("impatient", method, "")).await.unwrap_err();
        assert!(matches!(error, KernelError::SelfWait { .. }));
        tellings.push(oxide_tests::told(&error));
    }
    // Also through a plugin, which comes back over the bus.
    let error =
        in_time(host.invoke("impatient", "through", calling("impatient", "stop", ""))).await.unwrap_err();
    tellings.push(oxide_tests::told(&error));
    insta::assert_snapshot!(tellings.join("\n"), @"
    error[self_wait]: module `impatient` cannot wait for its own stop
    hint: ask for the stop from outside the module's own calls, or by a command on the bus
    error[self_wait]: module `impatient` cannot wait for its own unload
    hint: ask for the unload from outside the module's own calls
    error[hook_failed]: invoke of module `m` failed: module `impatient` cannot wait for its own stop
    ");
    assert_eq!(host.modules().state("impatient").await, Some(ModuleState::Running));
    // Lets go of the host in the module, so that both can go.
    in_time(host.unload("impatient")).await.unwrap();
}

#[tokio::test]
async fn a_subscription_that_is_not_read_holds_up_nobody_and_is_told_what_it_missed() {
    const MORE: usize = 10;
    let host = host(&["m"]).await;
    host.invoke("m", "subscribe", r#"{"kind": "flood"}"#).await.unwrap();
    for number in 0..SubscribeOptions::DEFAULT_CAPACITY + MORE {
        in_time(host.bus().emit_event("test", custom("nobody", "flood", json!(number)))).await.unwrap();
    }
    let reply = in_time(host.invoke("m", "receive", "")).await.unwrap();
    let reply: Value = reply.to_json().unwrap();
    assert_eq!(reply["missed"], json!(MORE));
    assert_eq!(reply["envelope"]["message"]["event"]["payload"], json!(MORE));
}

#[tokio::test]
async fn calls_over_the_bus_to_a_module_that_does_not_run_yet_wait_for_it() {
    let host = Host::new().unwrap();
    host.load_with(misbehaving(), options("m", json!({})).start(false)).await.unwrap();
    let mut events = host.bus().subscribe().await;
    let requests: Vec<_> = (0..3)
        .map(|number| {
            let bus = host.bus().clone();
            let command = invoke("m", "say", number.to_string());
            tokio::spawn(async move { bus.request("test", command, LIMIT).await })
        })
        .collect();
    for _ in 0..3 {
        let command = in_time(events.receiver.recv()).await.unwrap();
        assert!(matches!(command.message, Message::Command(_)), "{command:?}");
    }
    assert!(requests.iter().all(|request| !request.is_finished()));
    host.start("m").await.unwrap();
    for (number, request) in requests.into_iter().enumerate() {
        let answer = in_time(request).await.unwrap().unwrap();
        let payload = json!(number);
        assert_eq!(answer, Event::InvokeCompleted { module_id: "m".into(), payload });
    }
}

#[tokio::test]
async fn messages_reach_the_module_they_are_about_in_order() {
    let host = host(&["m", "other"]).await;
    let kinds = |list: Value| -> Vec<String> {
        let of = |one: &Value| one["message"]["event"]["kind"].as_str().unwrap_or_default().to_owned();
        list.as_array().unwrap().iter().map(of).collect()
    };
    let wait_for = async |count: usize| {
        in_time(async {
            loop {
                let list: Value = host.invoke("m", "received", "").await.unwrap().to_json().unwrap();
                if list.as_array().unwrap().len() >= count {
                    return kinds(list);
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await
    };
    let bus = host.bus();
    bus.emit_event("test", custom("m", "1", json!(null))).await.unwrap();
    bus.emit_event("test", custom("other", "not for m", json!(null))).await.unwrap();
    // From itself, so not for itself.
    host.invoke("m", "publish", "own").await.unwrap();
    bus.emit_event("test", custom("m", "2", json!(null))).await.unwrap();
    assert_eq!(wait_for(2).await, ["1", "2"]);

    // What comes while it is stopped waits for it.
    host.stop("m").await.unwrap();
    for kind in ["3", "4", "5"] {
        bus.emit_event("test", custom("m", kind, json!(null))).await.unwrap();
    }
    host.start("m").await.unwrap();
    assert_eq!(wait_for(5).await, ["1", "2", "3", "4", "5"]);
}

#[tokio::test]
async fn a_message_that_is_not_taken_well_does_not_stop_the_next() {
    for deed in ["fail", "panic", "spite"] {
        let host = Host::new().unwrap();
        load_misbehaving(&host, "m", json!({ "on_message": deed })).await.unwrap();
        for kind in ["1", "2", "3"] {
            host.bus().emit_event("test", custom("m", kind, json!(null))).await.unwrap();
        }
        in_time(async {
            loop {
                let list: Value = host.invoke("m", "received", "").await.unwrap().to_json().unwrap();
                if list.as_array().unwrap().len() == 3 {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
        assert_eq!(host.modules().state("m").await, Some(ModuleState::Running));
    }
}

#[tokio::test]
async fn commands_are_acted_on_and_answered() {
    let host = host(&["m"]).await;
    let bus = host.bus();
    let id = || "m".to_owned();
    let ask = async |command| in_time(bus.request("test", command, LIMIT)).await;
    assert_eq!(
        ask(invoke("m", "say", "1.5")).await.unwrap(),
        Event::InvokeCompleted { module_id: id(), payload: json!(1.5) }
    );
    let stop = Command::Stop { module_id: id() };
    assert_eq!(ask(stop.clone()).await.unwrap(), Event::ModuleStopped { module_id: id() });
    assert_eq!(ask(stop).await.unwrap(), Event::CommandCompleted { module_id: id() });
    let start = Command::Start { module_id: id() };
    assert_eq!(ask(start.clone()).await.unwrap(), Event::ModuleStarted { module_id: id() });
    assert_eq!(ask(start).await.unwrap(), Event::CommandCompleted { module_id: id() });
    assert!(matches!(ask(Command::Ping).await.unwrap(), Event::Pong { .. }));
    let error = ask(Command::Start { module_id: "nobody".into() }).await.unwrap_err();
    assert_eq!(error.to_string(), "no module has the id `nobody`");
}

#[tokio::test]
async fn who_finds_a_mailbox_full_is_told() {
    let mut builder = Host::builder();
    builder.limits_mut().mailbox = 2;
    builder.limits_mut().mailbox_wait = SHORT;
    let host = builder.build().unwrap();
    // It does not run, so it takes nothing out.
    host.load_with(misbehaving(), options("m", json!({})).start(false)).await.unwrap();
    let tell = || host.bus().emit_event("test", custom("m", "news", json!(null)));
    tell().await.unwrap();
    tell().await.unwrap();
    let error = in_time(tell()).await.unwrap_err();
    assert_eq!(error.to_string(), "the mailbox of module `m` is full (2 messages) and the module is loaded");
}

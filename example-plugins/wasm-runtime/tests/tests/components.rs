//! Components of the world `oxide:module/module`.

use oxide_host::{
    SwapOptions,
    bus::{Command, Event, Message},
    error::KernelError,
};
use serde_json::json;
use wasm_runtime_tests::{Given, House, engine};

#[tokio::test]
async fn a_component_answers_and_is_gone() {
    let house = House::new();
    house.load("echo", &Given::guest("echo")).await;
    assert_eq!(house.call("echo", "echo", "hi").await, "hi");
    assert_eq!(house.call("echo", "upper", "straße").await, "STRASSE");
    let large = "x".repeat(5 << 20);
    assert_eq!(house.call("echo", "echo", &large).await, large);
    let error = house.host.invoke("echo", "ohce", "").await.unwrap_err();
    assert!(matches!(&error, KernelError::UnknownMethod { method, .. } if method == "ohce"), "{error:?}");
    let error = house.host.invoke("echo", "upper", &b"\xff"[..]).await.unwrap_err();
    assert!(error.to_string().contains("utf-8"), "{error}");
    assert_eq!(house.call("echo", "echo", "on").await, "on");
    house.gone("echo").await;
}

#[tokio::test]
async fn hooks_run_in_the_order_of_a_life() {
    let house = House::new();
    let given = Given::guest("counter").config(json!({ "start": 40 }));
    house.load("counter", &given).await;
    assert_eq!(house.call("counter", "started", "").await, "true");
    assert_eq!(house.call("counter", "increment", "").await, "41");
    assert_eq!(house.call("counter", "increment", "null").await, "42");
    let error = house.fails("counter", "increment", "one").await;
    assert!(error.contains("found `one`, expected a whole number"), "{error}");
    house.host.stop("counter").await.unwrap();
    house.host.start("counter").await.unwrap();
    assert_eq!(house.call("counter", "get", "").await, "42");
    house.gone("counter").await;
}

#[tokio::test]
async fn what_the_guests_configure_refuses_refuses_the_load() {
    let house = House::new();
    let error = house.refused(&Given::guest("counter").config(json!("seven"))).await;
    assert!(error.contains("found \"seven\", expected {\"start\": N}"), "{error}");
    assert_eq!(house.mapped(), 0);
}

#[tokio::test]
async fn after_a_panic_the_next_call_finds_a_fresh_instance_configured_and_started() {
    let house = House::new();
    house.load("counter", &Given::guest("counter").config(json!({ "start": 7 }))).await;
    assert_eq!(house.call("counter", "increment", "").await, "8");
    let error = house.fails("counter", "give-up", "").await;
    assert!(error.contains("gave up (`unreachable`)"), "{error}");
    assert_eq!(house.call("counter", "get", "").await, "7");
    assert_eq!(house.call("counter", "started", "").await, "true");
    house.gone("counter").await;
}

#[tokio::test]
async fn a_swap_takes_the_state_along() {
    let house = House::new();
    let given = Given::guest("counter").config(json!({ "start": 1 }));
    house.load("counter", &given).await;
    assert_eq!(house.call("counter", "increment", "").await, "2");
    // The same engine with another guest's configuration is another build of the module.
    let other = Given::guest("counter").config(json!({ "start": 100 })).with("memory", 32 << 20);
    let options = SwapOptions::new().force(true).config(other.json());
    let report = house.host.swap_with("counter", engine(), options).await.unwrap();
    assert!(report.state_moved, "{report:?}");
    assert!(report.old.unmapped, "{report:?}");
    assert_eq!(house.call("counter", "get", "").await, "2");
    assert_eq!(house.mapped(), 1);
    house.gone("counter").await;
}

#[tokio::test]
async fn a_guest_that_cannot_take_the_state_leaves_the_old_one_serving() {
    let house = House::new();
    house.load("counter", &Given::guest("counter")).await;
    house.call("counter", "increment", "").await;
    let other = Given::new("counter", &wasm_runtime_tests::guest("hello"));
    let options = SwapOptions::new().force(true).config(other.json());
    let error = house.host.swap_with("counter", engine(), options).await.unwrap_err();
    let error = wasm_runtime_tests::told(&error);
    assert!(error.contains("exports no `oxide_restore_state`"), "{error}");
    assert_eq!(house.call("counter", "get", "").await, "1");
    house.gone("counter").await;
}

#[tokio::test]
async fn guests_call_each_other_over_the_bus() {
    let house = House::new();
    house.load("caller", &Given::guest("caller")).await;
    house.load("counter", &Given::guest("counter")).await;
    house.load("shout", &Given::guest("hello")).await;
    assert_eq!(house.call("caller", "call", "counter increment 5").await, "5");
    assert_eq!(house.call("caller", "call", "shout hello \"x\"").await, "\"hello, \\\"x\\\"!\"");
    let error = house.fails("caller", "call", "counter increment \"x\"").await;
    assert!(error.contains("expected a whole number"), "{error}");
    let error = house.fails("caller", "call", "nobody get null").await;
    assert!(error.contains("nobody"), "{error}");
    let error = house.fails("caller", "call", "counter get nothing").await;
    assert!(error.contains("the payload is not JSON"), "{error}");
    for id in ["caller", "counter", "shout"] {
        house.gone(id).await;
    }
}

#[tokio::test]
async fn guests_publish_and_hear() {
    let house = House::new();
    let mut bus = house.host.bus().subscribe().await;
    house.load("one", &Given::guest("caller")).await;
    house.load("two", &Given::guest("caller")).await;
    house.call("one", "publish", "two greeting {\"n\":1}").await;
    let (source, payload) = loop {
        let envelope = bus.receiver.recv().await.unwrap();
        if let Message::Event(Event::Custom { kind, payload, .. }) = envelope.message
            && kind == "greeting"
        {
            break (envelope.source, payload);
        }
    };
    assert_eq!((source.as_str(), payload), ("one", json!({ "n": 1 })));
    let heard = loop {
        let heard = house.call("two", "heard", "").await;
        if !heard.is_empty() {
            break heard;
        }
    };
    assert!(heard.starts_with("one {") && heard.contains("\"greeting\""), "{heard}");
    house.gone("one").await;
    house.gone("two").await;
}

#[tokio::test]
async fn commands_on_the_bus_reach_a_guest() {
    let house = House::new();
    house.load("counter", &Given::guest("counter")).await;
    let command =
        Command::Invoke { module_id: "counter".into(), method: "increment".into(), payload: json!(3) };
    let mut bus = house.host.bus().subscribe().await;
    house.host.bus().send_command("test", command).await.unwrap();
    loop {
        let envelope = bus.receiver.recv().await.unwrap();
        if let Message::Event(Event::InvokeCompleted { payload, .. }) = envelope.message {
            assert_eq!(payload, json!(3));
            break;
        }
    }
    house.gone("counter").await;
}

#[tokio::test]
async fn there_is_no_bus_before_instantiate_and_there_are_clocks() {
    let house = House::new();
    let error = house.refused(&Given::guest("caller").config(json!("too early"))).await;
    assert!(error.contains("the bus is not there yet"), "{error}");
    house.load("caller", &Given::guest("caller")).await;
    let [first, second] = [house.call("caller", "clock", "").await, house.call("caller", "clock", "").await];
    let numbers = |text: &str| text.split(' ').map(|number| number.parse().unwrap()).collect::<Vec<u64>>();
    let (first, second) = (numbers(&first), numbers(&second));
    assert!(first[0] > 1_700_000_000_000_000_000 && second[0] >= first[0] && second[1] > first[1]);
    house.gone("caller").await;
}

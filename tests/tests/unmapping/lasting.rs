//! What the C library keeps of a plugin, and calls or writes to later: it is not undone by a close, so a file that
//! imports such a function is never closed.

use std::{
    env,
    ffi::{c_int, c_void},
    fs,
    path::Path,
    process::Command,
};

use oxide_host::report::Holder;
use oxide_tests::{
    Flag, House, SHORT, block_on, child, child::folder, house::lines, misbehave::changed, plugin, until,
};
use serde_json::Value;

/// After a call of `method` the library is retained, and the receipt says for which functions.
async fn retained_after(house: &House, id: &str, method: &str, argument: &str) {
    house.call(id, method, argument).await;
    let receipt = house.unload(id).await;
    let [one] = &receipt.retained_by[..] else { panic!("{receipt:?}") };
    assert_eq!(one.holder, Holder::ForeignImport);
    let mut imports: Vec<&str> = one.detail.split('`').skip(1).step_by(2).collect();
    imports.sort_unstable();
    let expected = ["aio_read", "fopencookie", "mq_notify", "pthread_attr_setstack"];
    assert_eq!(imports, expected);
}

#[test]
fn what_is_to_be_called_for_a_message_is_called_when_it_is_unloaded() {
    child(&["c-lasting", "clinging"]).run(|| {
        block_on(async {
            let mut house = House::new().await;
            house.load("clinging").await;
            let queue = format!("/oxide-tests-{}", std::process::id());
            let argument = format!("{}{queue}", folder().display());
            house.load("c-lasting").await;
            retained_after(&house, "c-lasting", "mq_notify", &argument).await;
            house.call("clinging", "send", &queue).await;
            until("it is called", || lines(format!("{argument}.notes").as_ref()) == ["called"]);
        });
    });
}

#[test]
fn what_the_c_library_reads_for_it_comes_to_where_it_was_to_come_when_it_is_unloaded() {
    child(&["c-lasting"]).run(|| {
        block_on(async {
            let mut house = House::new().await;
            let pipe = folder().join("pipe");
            assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
            house.load("c-lasting").await;
            retained_after(&house, "c-lasting", "aio_read", pipe.to_str().unwrap()).await;
            fs::write(&pipe, "something").unwrap();
            // A thread of the C library's writes to the plugin's memory, and then has this told.
            let notes = pipe.with_extension("notes");
            until("it is read", || lines(&notes) == ["called"]);
        });
    });
}

#[test]
fn a_stream_of_its_own_is_flushed_at_the_end_of_the_process_when_it_is_unloaded() {
    child(&["c-lasting"]).run(|| {
        block_on(async {
            let mut house = House::new().await;
            house.load("c-lasting").await;
            retained_after(&house, "c-lasting", "fopencookie", "something").await;
        });
    });
}

#[test]
fn a_thread_on_a_stack_of_its_own_heap_stays_on_the_list_of_the_c_library_when_it_is_unloaded() {
    child(&["c-lasting"]).run(|| {
        block_on(async {
            let mut house = House::new().await;
            for id in ["one", "other"] {
                house.load_as("c-lasting", id, Value::Null).await;
            }
            retained_after(&house, "one", "own_stack", "").await;
            // Is put on that list before the first.
            retained_after(&house, "other", "own_stack", "").await;
        });
    });
}

#[test]
fn a_library_that_was_opened_too_late_is_not_closed_either() {
    child(&["c-lasting"]).flag("C_LASTING_BEGINNING").run(|| {
        block_on(async {
            let flag = Flag::named("C_LASTING_BEGINNING");
            let mut house = House::with(|builder| builder.loader_timeout(SHORT)).await;
            let error = house.load_file(&plugin("c-lasting"), "late", Value::Null).await.unwrap_err();
            assert_eq!(error.code(), "loader_stuck", "{error}");
            flag.go_on();
            until("it is listed", || !house.host.retained().is_empty());
            let retained = house.host.retained();
            assert_eq!(
                (&*retained[0].id, retained[0].retained_by[0].holder),
                ("late", Holder::ForeignImport)
            );
            assert!(house.is_mapped("late"));
        });
    });
}

/// The plugin, as if another abi_stable had made its tables.
fn of_another_abi_stable(plugin: &Path) -> Vec<u8> {
    const MAGIC: &[u8] = b"abi stable library for Rust";
    let mut bytes = fs::read(plugin).unwrap();
    let at = bytes.windows(MAGIC.len()).position(|window| window == MAGIC).unwrap();
    bytes[at] = b'A';
    bytes
}

/// A host that has refused this plugin after it opened it, and has it in its map all the same.
async fn refused(package: &str) -> House {
    let file = changed(package, &of_another_abi_stable(&plugin(package)));
    let mut house = House::new().await;
    let error = house.load_file(file.as_ref(), "refused", Value::Null).await.unwrap_err();
    assert_eq!(error.code(), "layout_mismatch", "{error}");
    assert!(house.is_mapped("refused"));
    house
}

#[test]
fn a_library_that_is_refused_after_it_was_opened_is_not_closed_either() {
    child(&["c-lasting"]).flag("C_LASTING_BEGINNING").run(|| {
        block_on(async {
            Flag::named("C_LASTING_BEGINNING").go_on();
            let house = refused("c-lasting").await;
            assert_eq!(listed(&house), [Holder::ForeignImport]);
        });
    });
}

/// What keeps the library that was refused, as the host lists it.
fn listed(house: &House) -> Vec<Holder> {
    let retained = house.host.retained();
    assert!(retained.iter().all(|one| one.id == "refused" && one.generation == 1));
    retained.iter().flat_map(|one| &one.retained_by).map(|by| by.holder).collect()
}

#[test]
#[allow(unsafe_code, reason = "closes the handle that the plugin keeps to itself")]
fn a_library_that_stays_although_it_was_refused_and_closed_is_listed_until_it_goes() {
    unsafe extern "C" {
        fn dlclose(handle: *mut c_void) -> c_int;
    }

    child(&["c-inside"]).flag("C_INSIDE_HOLDS_ITSELF").run(|| {
        block_on(async {
            let house = refused("c-inside").await;
            assert_eq!(listed(&house), [Holder::Loader]);

            let said = lines(Path::new(&env::var_os("C_INSIDE_HOLDS_ITSELF").unwrap()));
            let handle: usize = said[0].parse().unwrap();
            // SAFETY: the plugin got this handle for itself, and nothing of it runs.
            assert_eq!(unsafe { dlclose(handle as *mut c_void) }, 0);
            assert!(!house.is_mapped("refused"));
            until("it is not listed any more", || listed(&house).is_empty());
        });
    });
}

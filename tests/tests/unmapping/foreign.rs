//! Parts in C and C++, libraries that it opens, an allocator of its own.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc,
    thread,
};

use object::{Endianness, elf, read::elf::ElfFile64};
use oxide_host::report::Holder;
use oxide_tests::{
    Flag, House, SHORT, block_on, child, child::folder, house::lines, misbehave::changed, plugin, until,
};
use serde_json::Value;

fn notes() -> PathBuf {
    folder().join("notes")
}

fn path() -> String {
    notes().to_string_lossy().into_owned()
}

fn maps() -> String {
    fs::read_to_string("/proc/self/maps").unwrap()
}

/// A thread that has called a module and waits for its end.
struct Asleep {
    end: mpsc::Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl Asleep {
    fn after(id: &'static str, method: &'static str, argument: String, house: &House) -> Self {
        let (host, (end, ended), (tell, told)) = (house.host.clone(), mpsc::channel(), mpsc::channel());
        let thread = thread::spawn(move || {
            block_on(host.invoke(id, method, argument)).unwrap();
            tell.send(()).unwrap();
            let _ = ended.recv();
        });
        told.recv().unwrap();
        Self { end, thread }
    }

    fn end(self) {
        drop(self.end);
        self.thread.join().unwrap();
    }
}

#[test]
fn a_thread_that_a_c_library_in_it_starts_holds_the_library_until_it_ends() {
    child(&["c-inside"]).run(|| {
        block_on(async {
            let mut house = House::with(|builder| builder.thread_timeout(SHORT)).await;
            house.load("c-inside").await;
            let flag = Flag::new();
            house.call("c-inside", "thread", flag.argument()).await;
            until("it runs", || flag.is_inside());
            assert_eq!(house.retained("c-inside").await, [(Holder::Thread, 1)]);
            flag.go_on();
            house.gone_at_last("c-inside").await;
            assert!(flag.has_ended());
        });
    });
}

#[test]
fn a_key_of_a_c_library_in_it_is_destroyed_on_its_threads_and_given_back() {
    child(&["c-inside"]).run(|| {
        block_on(async {
            let mut house = House::new().await;
            house.load("c-inside").await;
            house.call("c-inside", "key", &path()).await;
            house.call("c-inside", "key", &path()).await;
            house.call_aside("c-inside", "key", &path());
            assert_eq!(lines(&notes()).len(), 1, "the thread that has ended");
            let asleep = Asleep::after("c-inside", "key", path(), &house);
            assert_eq!(house.retained("c-inside").await, [(Holder::ThreadLocal, 1)]);
            assert_eq!(lines(&notes()).len(), 2, "and the one that unloads");
            asleep.end();
            house.gone_at_last("c-inside").await;
            assert_eq!(lines(&notes()).len(), 3);
        });
    });
}

#[test]
fn what_a_c_library_in_it_leaks_and_does_at_exit_does_not_hold_the_library() {
    child(&["c-inside"]).flag("C_INSIDE_AT_EXIT").run(|| {
        block_on(async {
            let flag = Flag::named("C_INSIDE_AT_EXIT");
            let mut house = House::new().await;
            house.load("c-inside").await;
            house.call("c-inside", "leak", "1000000").await;
            house.call("c-inside", "at_exit", "").await;
            flag.go_on();
            assert!(!flag.is_inside());
            house.gone("c-inside").await;
            assert!(flag.has_ended(), "it was called when the library was closed");
        });
    });
}

#[test]
fn what_a_c_library_in_it_does_at_a_fork_and_a_quick_exit_does_not_hold_the_library_and_is_forgotten() {
    child(&["c-inside", "clinging"]).run(|| {
        block_on(async {
            let mut house = House::new().await;
            house.load("clinging").await;
            house.load("c-inside").await;
            house.call("c-inside", "at_fork", "").await;
            house.call("c-inside", "at_quick_exit", "").await;
            house.gone("c-inside").await;
            assert_eq!(house.call("clinging", "fork_and_exit", "7").await, "7");
        });
    });
}

#[test]
fn a_thread_that_a_constructor_started_holds_the_library_for_good() {
    child(&["c-inside"]).flag("C_INSIDE_CONSTRUCTOR_THREAD").run(|| {
        block_on(async {
            let flag = Flag::named("C_INSIDE_CONSTRUCTOR_THREAD");
            let mut house = House::with(|builder| builder.thread_timeout(SHORT)).await;
            house.load("c-inside").await;
            until("it runs", || flag.is_inside());
            // Nobody counted it, so nobody sees it end.
            assert_eq!(house.retained("c-inside").await, [(Holder::Thread, 1)]);
            flag.go_on();
            until("it ends", || flag.has_ended());
        });
    });
}

#[test]
fn what_a_constructor_left_on_the_loaders_thread_is_destroyed_there() {
    child(&["c-inside"]).flag("C_INSIDE_CONSTRUCTOR_KEY").run(|| {
        block_on(async {
            let mut house = House::new().await;
            house.load("c-inside").await;
            house.gone_in_a_while("c-inside").await;
            let notes = std::env::var("C_INSIDE_CONSTRUCTOR_KEY").unwrap();
            assert_eq!(lines(Path::new(&notes)).len(), 1);
        });
    });
}

#[test]
fn an_allocator_of_its_own_does_not_hold_the_library_and_nobody_knows_what_it_leaked() {
    child(&["own-allocator"]).run(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        runtime.block_on(async {
            let mut house = House::new().await;
            for _ in 0..5 {
                house.load("own-allocator").await;
                house.call("own-allocator", "work", "100000").await;
                house.call_aside("own-allocator", "work", "100000");
                let host = house.host.clone();
                tokio::spawn(async move { host.invoke("own-allocator", "work", "0").await.unwrap() })
                    .await
                    .unwrap();
                assert_eq!(house.gone_in_a_while("own-allocator").await.leaked_bytes, None);
            }
        });
        drop(runtime);
    });
}

#[test]
fn a_system_library_that_it_opened_stays_when_it_goes() {
    const LIBRARY: &str = "libresolv.so.2";
    child(&["clinging"]).run(|| {
        block_on(async {
            let mut house = House::new().await;
            assert!(!maps().contains("libresolv"));
            house.load("clinging").await;
            house.call("clinging", "open_and_close", LIBRARY).await;
            assert!(!maps().contains("libresolv"));
            house.call("clinging", "open", LIBRARY).await;
            house.gone("clinging").await;
            assert!(maps().contains("libresolv"), "nobody but the plugin could have closed it");
        });
    });
}

#[test]
fn a_library_that_two_plugins_need_stays_with_the_second_and_goes_with_it() {
    child(&["c-beside"]).run(|| {
        block_on(async {
            let mut house = House::with(|builder| builder.allow_foreign_libraries(true)).await;
            for id in ["one", "other"] {
                house.load_as("c-beside", id, Value::Null).await;
            }
            assert_eq!(house.call("one", "count", "").await, "1");
            assert_eq!(house.call("other", "count", "").await, "2");
            // The receipts tell of the plugins, and of nothing else.
            house.gone("one").await;
            assert!(maps().contains("libbeside.so"));
            assert_eq!(house.call("other", "count", "").await, "3");
            house.gone("other").await;
            assert!(!maps().contains("libbeside.so"));
            house.load_as("c-beside", "next", Value::Null).await;
            assert_eq!(house.call("next", "count", "").await, "1");
            house.gone("next").await;
        });
    });
}

/// A library that uses the system's threads itself, past everything that stands in for them in a plugin.
const PRIVATE: &str = r#"
    #include <pthread.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <unistd.h>
    static pthread_key_t key;
    static void destroy(void *value) {
        FILE *file = fopen(getenv("PRIVATE_NOTES"), "a");
        if (file) { fputs("destroyed\n", file); fclose(file); }
        (void)value;
    }
    static void *run(void *nothing) { for (;;) pause(); return nothing; }
    void hold_on(void) {
        pthread_t thread;
        if (pthread_key_create(&key, destroy) || pthread_setspecific(key, &key)) abort();
        if (pthread_create(&thread, NULL, run, NULL) || pthread_detach(thread)) abort();
    }
"#;

#[test]
fn a_private_library_that_it_opened_and_used_stays_with_its_threads_and_keys_when_it_goes() {
    child(&["clinging"]).flag("PRIVATE_NOTES").run(|| {
        let source = folder().join("private.c");
        let library = folder().join("libprivate.so");
        fs::write(&source, PRIVATE).unwrap();
        let compiled = Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status();
        assert!(compiled.unwrap().success());
        block_on(async {
            let mut house = House::with(|builder| builder.thread_timeout(SHORT)).await;
            house.load("clinging").await;
            house.call_aside("clinging", "open_and_use", library.to_str().unwrap());
            let notes = std::env::var("PRIVATE_NOTES").unwrap();
            assert_eq!(lines(Path::new(&notes)).len(), 1, "the thread that has ended");
            let library = library.to_str().unwrap().to_owned();
            let asleep = Asleep::after("clinging", "open_and_use", library, &house);
            // What is held there is not the plugin.
            house.gone_in_a_while("clinging").await;
            assert!(maps().contains("libprivate.so"));
            asleep.end();
            assert_eq!(lines(Path::new(&notes)).len(), 2);
        });
    });
}

#[test]
fn a_thread_local_of_a_part_in_cpp_holds_the_library_from_the_start() {
    if Command::new("c++").arg("--version").output().is_err() {
        assert!(std::env::var_os("CI").is_none(), "a C++ compiler is needed: apt-get install g++");
        // Past the harness, which shows nothing of a test that ends well.
        let _ = writeln!(std::io::stderr(), "\nSKIPPED, for want of a C++ compiler: {}", module_path!());
        return;
    }
    child(&["cpp-inside"]).run(|| {
        block_on(async {
            let mut house = House::with(|builder| builder.allow_foreign_libraries(true)).await;
            house.load("cpp-inside").await;
            house.call_aside("cpp-inside", "note", &path());
            assert_eq!(lines(&notes()), ["destroyed"]);
            house.call("cpp-inside", "note", &path()).await;
            let receipt = house.unload("cpp-inside").await;
            let [one] = &receipt.retained_by[..] else { panic!("{receipt:?}") };
            assert_eq!((one.holder, one.count), (Holder::ForeignImport, 1));
            assert_eq!(one.detail, "imports `__cxa_thread_atexit`");
        });
    });
}

/// The plugin, with a symbol such as C++ has for its inline variables.
fn with_a_unique_symbol(plugin: &Path) -> Vec<u8> {
    let mut bytes = fs::read(plugin).unwrap();
    let at = {
        let file = ElfFile64::<Endianness>::parse(bytes.as_slice()).unwrap();
        let symbols = file.elf_dynamic_symbol_table();
        let name = b"_1as_0lib_1header_0root_bmodule_bloader";
        let (index, _) = symbols
            .enumerate()
            .find(|(_, symbol)| symbols.symbol_name(Endianness::Little, symbol).is_ok_and(|it| it == name))
            .unwrap();
        let section = file.elf_section_table().section(symbols.section()).unwrap();
        section.sh_offset.get(Endianness::Little) as usize + index.0 * size_of::<elf::Sym64<Endianness>>()
    };
    // `st_info`: the binding is its upper half.
    bytes[at + 4] = (10 << 4) | (bytes[at + 4] & 0xf);
    bytes
}

#[test]
fn a_symbol_that_is_unique_in_the_process_holds_the_library_from_the_start() {
    child(&["clinging"]).run(|| {
        block_on(async {
            let file = changed("clinging", &with_a_unique_symbol(&plugin("clinging")));
            let mut house = House::new().await;
            house.load_file(file.as_ref(), "clinging", Value::Null).await.unwrap();
            house.call("clinging", "current", "").await;
            let receipt = house.unload("clinging").await;
            let [one] = &receipt.retained_by[..] else { panic!("{receipt:?}") };
            assert_eq!((one.holder, one.count), (Holder::Loader, 1));
            assert!(one.detail.contains("STB_GNU_UNIQUE"), "{}", one.detail);
        });
    });
}

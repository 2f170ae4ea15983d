//! What makes a plugin safe to call and to let go of: the panic guard, and the stand-ins that bind its std's
//! thread services to the host (docs/safety.md).
#![allow(unsafe_code, reason = "the shim room: stands between the plugin's std and the process")]

pub(crate) mod heap;
#[cfg(feature = "tokio")]
pub(crate) mod kept;
pub(crate) mod panic;
#[cfg(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64"))]
pub mod services;

use crate::ffi::shim_table::{HostShim, PluginShim};

/// Binds this library's thread services to the host. Called once, on the thread that opened the library,
/// before any code but its constructors has run.
///
/// # Safety
/// The table and the context are valid until the library is gone.
pub(crate) unsafe fn attach(host: &'static HostShim, context: *const ()) -> *const PluginShim {
    #[cfg(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64"))]
    // SAFETY: as our caller promises.
    unsafe {
        services::attach(host, context);
    }
    heap::attach(heap::RegionSource {
        context,
        map: host.map,
        unmap: host.unmap,
        remap: host.remap,
        adopt: host.adopt,
        at_thread_end: host.at_thread_end,
    });
    // SAFETY: the context belongs to the table.
    let word = unsafe { (host.lend_word)(context) };
    if word != 0 {
        // SAFETY: the host lends it for as long as this library is there.
        unsafe { heap::lend_word(word) };
    }
    &PLUGIN_SHIM
}

static PLUGIN_SHIM: PluginShim = PluginShim { size: size_of::<PluginShim>(), finish, live_bytes };

unsafe extern "C" fn finish() {
    #[cfg(feature = "tokio")]
    {
        // SAFETY: the host calls this when nobody is inside, nor comes. What a destructor of tokio's panics with
        // has nobody to be told to.
        let _ = panic::guard(|| unsafe { crate::runtime::HANDLE.let_go() });
    }
}

unsafe extern "C" fn live_bytes() -> u64 {
    let usage = heap::usage();
    // What runs after this are the library's destructors, perhaps much later: nobody takes back any more what they
    // would leave on their threads.
    // SAFETY: the host calls this when nobody is inside, nor comes, and lets no thread end meanwhile.
    unsafe { heap::leave_threads() };
    // A heap that has no memory is not the one that this library allocates from.
    if usage.mapped_bytes == 0 { u64::MAX } else { usage.live_bytes as u64 }
}

/// Defines, in a plugin's own root, the C symbols through which its std asks for thread services: hidden, so
/// that they bind inside this library and nowhere else.
#[doc(hidden)]
#[macro_export]
macro_rules! __shim {
    () => {
        // A module of its own: `global_asm!` stands nowhere else when the export stands in a function.
        #[doc(hidden)]
        mod __oxide_shim {
            $crate::__stand_in!("__cxa_thread_atexit_impl", at_exit);
            $crate::__stand_in!("pthread_key_create", key_create);
            $crate::__stand_in!("pthread_setspecific", key_set);
            $crate::__stand_in!("pthread_key_delete", key_delete);
            $crate::__stand_in!("pthread_create", thread_create);
            $crate::__stand_in!("sigaction", sigaction);
            $crate::__stand_in!("signal", signal);
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __stand_in {
    ($symbol:literal, $function:ident) => {
        ::core::arch::global_asm!(
            ::core::concat!(".globl ", $symbol),
            ::core::concat!(".hidden ", $symbol),
            ::core::concat!(".type ", $symbol, ",@function"),
            ::core::concat!($symbol, ":"),
            $crate::__jump!(),
            ::core::concat!(".size ", $symbol, ", . - ", $symbol),
            f = sym $crate::__private::services::$function,
        );
    };
}

#[doc(hidden)]
#[macro_export]
#[cfg(target_arch = "x86_64")]
macro_rules! __jump {
    () => {
        "jmp {f}"
    };
}

#[doc(hidden)]
#[macro_export]
#[cfg(not(target_arch = "x86_64"))]
macro_rules! __jump {
    () => {
        "b {f}"
    };
}

//! The network by name: a guest may look up, and connect to, the hosts that it was granted and no others.

use std::net::SocketAddr;

use wasmtime::component::{HasData, Linker, Resource};
use wasmtime_wasi::{
    WasiCtxBuilder,
    p2::{
        DynPollable, SocketError, SocketResult,
        bindings::sockets::{
            ip_name_lookup::{self, Host, HostResolveAddressStream, ResolveAddressStream},
            network::{self, ErrorCode, IpAddress, Network},
        },
    },
    sockets::{SocketAddrUse, WasiSocketsCtxView},
};

use crate::store::Data;

/// Lets nobody connect to anything but `hosts`, each `name:port`.
pub(super) fn restrict(context: &mut WasiCtxBuilder, hosts: Vec<String>) {
    context.socket_addr_check(move |address, usage| {
        let hosts = hosts.clone();
        Box::pin(async move {
            match usage {
                // What the system does by itself before it connects.
                SocketAddrUse::TcpBind => address.ip().is_unspecified() && address.port() == 0,
                SocketAddrUse::TcpConnect => is_one_of(&hosts, address).await,
                _ => false,
            }
        })
    });
}

/// Whether one of the names stands for this address now.
async fn is_one_of(hosts: &[String], address: SocketAddr) -> bool {
    for host in hosts {
        if port(host) != Some(address.port()) {
            continue;
        }
        // On a thread of its own: the standard library's look-up blocks.
        let name = host.clone();
        let found = tokio::task::spawn_blocking(move || {
            let found = std::net::ToSocketAddrs::to_socket_addrs(&name);
            found.is_ok_and(|mut found| found.any(|one| one.ip() == address.ip()))
        });
        if found.await.unwrap_or(false) {
            return true;
        }
    }
    false
}

fn port(host: &str) -> Option<u16> {
    host.rsplit_once(':')?.1.parse().ok()
}

/// Puts a look-up that asks for granted names only in the place of WASI's.
///
/// # Errors
/// When wasmtime has no memory for it.
pub(super) fn offer(linker: &mut Linker<Data>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    let added = ip_name_lookup::add_to_linker::<Data, Names>(linker, |data| Lookup::of(data));
    linker.allow_shadowing(false);
    added
}

struct Names;

impl HasData for Names {
    type Data<'a> = Lookup<'a>;
}

/// WASI's sockets, and the names that may be looked up.
struct Lookup<'a> {
    sockets: WasiSocketsCtxView<'a>,
    hosts: Vec<String>,
}

impl<'a> Lookup<'a> {
    fn of(data: &'a mut Data) -> Self {
        let hosts = data.wasi.granted().hosts.clone();
        Self { sockets: wasmtime_wasi::sockets::WasiSocketsView::sockets(data), hosts }
    }

    fn is_granted(&self, name: &str) -> bool {
        let names = self.hosts.iter().filter_map(|host| host.rsplit_once(':'));
        names.map(|(name, _)| name.trim_matches(['[', ']'])).any(|granted| granted.eq_ignore_ascii_case(name))
    }
}

impl Host for Lookup<'_> {
    fn resolve_addresses(
        &mut self,
        network: Resource<Network>,
        name: String,
    ) -> SocketResult<Resource<ResolveAddressStream>> {
        if !self.is_granted(&name) {
            return Err(ErrorCode::AccessDenied.into());
        }
        self.sockets.resolve_addresses(network, name)
    }
}

impl HostResolveAddressStream for Lookup<'_> {
    fn resolve_next_address(
        &mut self,
        stream: Resource<ResolveAddressStream>,
    ) -> SocketResult<Option<IpAddress>> {
        self.sockets.resolve_next_address(stream)
    }

    fn subscribe(
        &mut self,
        stream: Resource<ResolveAddressStream>,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        self.sockets.subscribe(stream)
    }

    fn drop(&mut self, stream: Resource<ResolveAddressStream>) -> wasmtime::Result<()> {
        HostResolveAddressStream::drop(&mut self.sockets, stream)
    }
}

impl network::Host for Lookup<'_> {
    fn convert_error_code(&mut self, error: SocketError) -> wasmtime::Result<ErrorCode> {
        self.sockets.convert_error_code(error)
    }

    fn network_error_code(
        &mut self,
        error: Resource<wasmtime::Error>,
    ) -> wasmtime::Result<Option<ErrorCode>> {
        self.sockets.network_error_code(error)
    }
}

impl network::HostNetwork for Lookup<'_> {
    fn drop(&mut self, network: Resource<Network>) -> wasmtime::Result<()> {
        network::HostNetwork::drop(&mut self.sockets, network)
    }
}

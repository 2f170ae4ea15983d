//! The main job.
use oxide_host::Host;

#[tokio::test]
async fn load_call_unload() {
    let host = Host::new().unwrap();
    let info = host.load(oxide_tests::plugin("echo")).await.unwrap();
    println!("{info:?}");
    let echo = host.module("echo").unwrap();
    let reply = echo.invoke("echo", "hello").await.unwrap();
    assert_eq!(reply.as_bytes(), b"hello");
    println!("{:?}", echo.invoke("nope", "hello").await.unwrap_err());
    println!("{:?}", host.unload("echo").await);
    println!("{:?}", echo.invoke("nope", "hello").await.unwrap_err());
    println!("{:?}", host.load(oxide_tests::plugin("ticker")).await);
    let mut sub = host.bus().subscribe().await;
    println!("{:?}", sub.receiver.recv().await);
    println!("{:?}", sub.receiver.recv().await);
    println!("{:?}", host.stop("ticker").await);
    println!("{:?}", host.load(oxide_tests::plugin("counter")).await);
    println!("{:?}", host.list().await);
    println!("{:?}", host.shutdown().await);
}

//! Who may ask the admin endpoints, and how they are asked from elsewhere.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::Arc;

use crate::support::gateway::BINARY;
use crate::support::tls::{self, Pair};
use crate::support::{Gateway, Request, Server, eventually};

fn simple(server: &Server, admin: &str) -> String {
    format!(
        "admin: {admin}\npools: {{ a: {{ servers: ['{}'], health: false }} }}\nroutes: [{{ pool: a }}]\n",
        server.url()
    )
}

fn trunkline(gateway: &Gateway, arguments: &[&str], env: &[(&str, &str)]) -> (i32, String) {
    let output = Command::new(BINARY)
        .args(arguments)
        .args(["--config", gateway.config_path().to_str().unwrap()])
        .args(["--admin", &gateway.admin.to_string()])
        .envs(env.iter().copied())
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.code().unwrap(),
        String::from_utf8(said).unwrap(),
    )
}

#[test]
fn without_the_token_nothing_is_told_and_nothing_is_done() {
    let server = Server::named("a");
    let gateway = Gateway::start(&simple(
        &server,
        "{ address: '0.0.0.0:0', token: s3cret-canary }",
    ));
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, gateway.admin.port()));
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/metrics"),
        ("GET", "/status"),
        ("POST", "/reload"),
        ("POST", "/upgrade"),
        ("POST", "/drain/a/x"),
        ("POST", "/logs/level"),
    ] {
        let answer = Request::new(method, path).send(to);
        assert_eq!(answer.status, 401, "{method} {path}");
        let challenge = answer.header("www-authenticate").unwrap();
        assert!(challenge.starts_with("Basic "), "a browser asks for it");
        let wrong = Request::new(method, path).header("authorization", "Bearer s3cret-canarx");
        assert_eq!(wrong.send(to).status, 401, "{method} {path}");
    }
    // who looks whether it is well shows nothing
    assert_eq!(Request::get("/healthz").send(to).status, 200);
    assert_eq!(Request::get("/readyz").send(to).status, 200);
    let shown = |path: &str| {
        Request::get(path)
            .header("authorization", "Bearer s3cret-canary")
            .send(to)
    };
    let metrics = shown("/metrics").text();
    assert!(metrics.contains("trunkline_admin_rejected_total{reason=\"token\"} 14"));
    let status = shown("/status").text();
    for text in [metrics, status, gateway.stderr()] {
        assert!(!text.contains("s3cret"));
    }
    // the commands find it in the file
    let (code, said) = trunkline(&gateway, &["status"], &[]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(trunkline(&gateway, &["healthcheck"], &[]).0, 0);
}

#[test]
fn a_name_of_the_internet_is_answered_only_if_it_is_one_of_ours() {
    let server = Server::named("a");
    let gateway = Gateway::start(&simple(
        &server,
        "{ address: '127.0.0.1:0', hosts: [edge.example.com] }",
    ));
    let by = |host: &str| {
        let request = format!("GET /status HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        let mut stream = crate::support::client::connect(gateway.admin);
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split(' ').nth(1).unwrap().parse::<u16>().unwrap()
    };
    // a page that has pointed its own name at 127.0.0.1 comes under that name
    for (host, status) in [
        ("rebound.evil.com:2021", 421),
        ("127.0.0.1:2021", 200),
        ("localhost:2021", 200),
        ("edge.example.com", 200),
        ("trunkline:2021", 200),
    ] {
        assert_eq!(by(host), status, "{host}");
    }
}

#[test]
fn outside_loopback_it_listens_only_with_something_to_show() {
    let server = Server::named("a");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trunkline.yaml");
    let run = |yaml: &str, arguments: &[&str], env: &[(&str, &str)]| {
        std::fs::write(&file, format!("listen: 127.0.0.1:0\n{yaml}")).unwrap();
        let output = Command::new(BINARY)
            .arg("--config")
            .arg(&file)
            .args(arguments)
            .envs(env.iter().copied())
            .output()
            .unwrap();
        (
            output.status.code().unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (code, said) = run(&simple(&server, "0.0.0.0:0"), &[], &[]);
    assert_eq!((code, said.contains("set a token")), (78, true), "{said}");
    assert!(said.contains("trunkline.yaml:2:8"), "{said}");
    let (code, said) = run(
        &simple(&server, "127.0.0.1:0"),
        &["--admin", "0.0.0.0:0"],
        &[],
    );
    assert_eq!((code, said.contains("set a token")), (78, true), "{said}");
    let with_token = Gateway::start_with(
        &simple(&server, "0.0.0.0:0"),
        &[("TRUNKLINE_ADMIN_TOKEN", "t")],
    );
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, with_token.admin.port()));
    assert_eq!(Request::get("/status").send(to).status, 401);
    let shown = Request::get("/status").header("authorization", "Bearer t");
    assert_eq!(shown.send(to).status, 200);
}

/// An authority, and a certificate of its making with its key.
fn client_certificate() -> (String, String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new([]).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = authority.self_signed(&key).unwrap().pem();
    let issuer = rcgen::Issuer::new(authority, key);
    let client_key = rcgen::KeyPair::generate().unwrap();
    let client = rcgen::CertificateParams::new(["operator".to_owned()]).unwrap();
    let client = client.signed_by(&client_key, &issuer).unwrap();
    (root, client.pem(), client_key.serialize_pem())
}

#[test]
fn with_a_client_authority_its_certificates_open_the_door() {
    let server = Server::named("a");
    let folder = tempfile::tempdir().unwrap();
    let pair = Pair::new();
    pair.write(folder.path());
    let (root, cert, key) = client_certificate();
    for (name, text) in [
        ("ca.pem", root),
        ("client.pem", cert),
        ("client-key.pem", key),
    ] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let admin =
        "{ address: '0.0.0.0:0', tls: { cert: cert.pem, key: key.pem, client_ca: ca.pem } }";
    let gateway = Gateway::start_in(folder, &simple(&server, admin), &[]);
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, gateway.admin.port()));
    let without = |path: &str| {
        let mut stream = tls::connect(to, pair.client(rustls::ALL_VERSIONS, &[])).unwrap();
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    };
    assert!(without("/readyz").starts_with("HTTP/1.1 200"));
    assert!(without("/status").starts_with("HTTP/1.1 401"));
    let (code, said) = trunkline(&gateway, &["status"], &[]);
    assert_eq!((code, said.contains("certificate")), (3, true), "{said}");
    assert_eq!(trunkline(&gateway, &["healthcheck"], &[]).0, 0);
    let named = |name: &str| gateway.folder.path().join(name).display().to_string();
    let (cert, key) = (named("client.pem"), named("client-key.pem"));
    let env = [
        ("TRUNKLINE_ADMIN_CERT", cert.as_str()),
        ("TRUNKLINE_ADMIN_KEY", key.as_str()),
    ];
    let (code, said) = trunkline(&gateway, &["status"], &env);
    assert_eq!((code, said.contains("ready")), (0, true), "{said}");
    let (code, said) = trunkline(&gateway, &["reload"], &env);
    assert_eq!(code, 0, "{said}");
}

#[test]
fn clients_without_a_certificate_are_refused_where_one_is_asked_for() {
    let server = Server::named("a");
    let folder = tempfile::tempdir().unwrap();
    let pair = Pair::new();
    pair.write(folder.path());
    let (root, cert, key) = client_certificate();
    std::fs::write(folder.path().join("ca.pem"), root).unwrap();
    let yaml = format!(
        "listeners: [{{ address: '127.0.0.1:0', tls: {{ cert: cert.pem, key: key.pem, client_ca: ca.pem }} }}]\n{}",
        simple(&server, "127.0.0.1:0")
    );
    let gateway = Gateway::start_in(folder, &yaml, &[]);
    let ask = |config: Arc<rustls::ClientConfig>| -> std::io::Result<String> {
        let mut stream = tls::connect(gateway.address, config)?;
        write!(
            stream,
            "GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    assert!(ask(pair.client(rustls::ALL_VERSIONS, &[])).is_err());
    let failures = || gateway.metric("trunkline_tls_handshake_failures_total", &[]);
    eventually("it is counted", || failures() == 1.0);
    use rustls::pki_types::pem::PemObject;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(pair.der.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let shown = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![rustls::pki_types::CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()],
            rustls::pki_types::PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        )
        .unwrap();
    assert!(ask(Arc::new(shown)).unwrap().ends_with("healthy\n"));
}

#[test]
fn the_level_of_messages_changes_by_command_and_by_signal() {
    let server = Server::named("a");
    let yaml = format!(
        "{}\nlog: {{ access: off, level: warn }}\n",
        simple(&server, "127.0.0.1:0")
    );
    // nobody says on which port it listens: one is picked beforehand
    let free = || {
        std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
    };
    let (listen, admin) = (free(), free());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("trunkline.yaml");
    std::fs::write(
        &file,
        yaml.replace(
            "admin: 127.0.0.1:0",
            &format!("listen: {listen}\nadmin: {admin}"),
        ),
    )
    .unwrap();
    let log = std::fs::File::create(folder.path().join("log")).unwrap();
    let mut child = Command::new(BINARY)
        .arg("--config")
        .arg(&file)
        .stderr(log)
        .spawn()
        .unwrap();
    let said = || std::fs::read_to_string(folder.path().join("log")).unwrap();
    let level = |arguments: &[&str]| {
        let output = Command::new(BINARY)
            .arg("log-level")
            .args(arguments)
            .args(["--admin", &admin.to_string()])
            .output()
            .unwrap();
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    };
    eventually("it can be asked", || {
        std::net::TcpStream::connect(admin).is_ok()
    });
    assert_eq!(said(), "");
    assert!(level(&["debug", "--for", "10m"]).contains("down to debug are shown for 10m"));
    eventually("it says so", || said().contains("down to debug"));
    assert!(level(&[]).contains("as configured"));
    assert!(level(&["loud"]).contains("possible values"));
    let before = said().len();
    let told = Command::new("kill")
        .arg("-USR2")
        .arg(child.id().to_string())
        .status();
    assert!(told.unwrap().success());
    eventually("the signal does it too", || {
        said()[before..].contains("down to debug")
    });
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The token is in the file, and the file is broken: that is when one wants to be told why.
#[test]
fn a_file_that_is_refused_still_tells_how_to_ask() {
    let server = Server::named("a");
    let folder = tempfile::tempdir().unwrap();
    let Pair { cert, key, .. } = Pair::new();
    std::fs::write(folder.path().join("cert.pem"), &cert).unwrap();
    std::fs::write(folder.path().join("key.pem"), key).unwrap();
    let admin =
        "{ address: 127.0.0.1:0, token: '${EDGE_TOKEN}', tls: { cert: cert.pem, key: key.pem } }";
    let env = [("EDGE_TOKEN", "s3cret-canary")];
    let gateway = Gateway::start_in(folder, &simple(&server, admin), &env);
    let text = std::fs::read_to_string(gateway.config_path()).unwrap();
    std::fs::write(gateway.config_path(), text + "nonsense: 1\n").unwrap();
    let (code, said) = trunkline(&gateway, &["reload"], &env);
    assert_eq!((code, said.contains("nonsense")), (1, true), "{said}");
    std::fs::write(gateway.folder.path().join("cert.pem"), "no certificate").unwrap();
    let (code, said) = trunkline(&gateway, &["reload"], &env);
    assert_eq!((code, said.contains("check-config")), (1, true), "{said}");
}

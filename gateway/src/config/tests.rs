use std::collections::HashMap;

use clap::error::ErrorKind;

use super::*;

/// Parses flags and variables, both without touching the process's own.
fn parse(args: &[&str], env: &[(&str, &str)]) -> Result<Command, ConfigError> {
    let env: HashMap<&str, &str> = env.iter().copied().collect();
    let args = ["forebay"].iter().chain(args).map(OsString::from);
    Command::parse(args, |name| env.get(name).map(OsString::from))
}

fn serve(args: &[&str], env: &[(&str, &str)]) -> Config {
    match parse(args, env).unwrap() {
        Command::Serve(config) => *config,
        other => panic!("another command: {other:?}"),
    }
}

fn file(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("forebay.toml");
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

#[test]
fn the_defaults_are_one_process_on_loopback() {
    let config = serve(&[], &[]);
    let expected = Config {
        listen: "127.0.0.1:8080".parse().unwrap(),
        data_dir: "forebay-data".into(),
        store: StoreUrl::File("forebay-data/store".into()),
        s3: S3Options::default(),
        replace_node: None,
        cluster: None,
        compactor: CompactorMode::Embedded,
        shards: 1,
        flush_linger: Duration::from_secs(5),
        journal_bytes: 10 << 30,
        cache_bytes: 256 << 20,
        auth: Auth::None,
        cors_origins: CorsOrigins::default(),
        max_connections: 20_000,
        max_requests: 4096,
        max_streams: 16_000,
        log: LogFormat::Text,
    };
    assert_eq!(config, expected);
    assert_eq!(serve(&["serve"], &[]), expected);
}

#[test]
fn a_flag_beats_a_variable_beats_the_file_beats_the_default() {
    let (_folder, path) = file("shards = 2\nflush-linger = \"2s\"\nlog = \"json\"\ndata-dir = \"/file\"");
    let env = [("FOREBAY_SHARDS", "3"), ("FOREBAY_FLUSH_LINGER", "3s"), ("FOREBAY_CONFIG", &path)];
    let config = serve(&["--shards", "4"], &env);
    assert_eq!((config.shards, config.flush_linger), (4, Duration::from_secs(3)));
    assert_eq!((config.log, config.listen), (LogFormat::Json, LISTEN_DEFAULT));
    assert_eq!(config.store, StoreUrl::File("/file/store".into()), "the store follows the folder");
    let (_other, empty) = file("");
    assert_eq!(serve(&["serve", "--config", &empty], &env).shards, 3, "the flag names another file");
}

#[test]
fn every_source_knows_every_option() {
    let text = "listen = \"127.0.0.1:1\"\ndata-dir = \"d\"\nstore = \"s3://bucket/a/b\"\n\
                s3-endpoint = \"https://s3.example\"\ns3-region = \"eu-north-1\"\ns3-path-style = true\n\
                replace-node = \"00000000000000000000000000000007\"\nredis = \"redis://127.0.0.1:6379/0\"\n\
                cluster-listen = \"127.0.0.1:7070\"\nadvertise = \"node-1:7071\"\n\
                cluster-tls-cert = \"c\"\ncluster-tls-key = \"k\"\ncluster-tls-ca = \"a\"\n\
                compactor = \"off\"\nshards = 7\nflush-linger = \"0s\"\n\
                journal-bytes = \"1GiB\"\ncache-bytes = \"256MiB\"\nauth = \"none\"\n\
                cors-origins = [\"https://a.example\", \"http://localhost:5173\"]\n\
                max-connections = 5\nmax-requests = 6\nmax-streams = 7\nlog = \"json\"";
    let (_folder, path) = file(text);
    let from_file = serve(&["--config", &path], &[]);
    let pairs: Vec<(String, String)> = text
        .lines()
        .map(|line| line.split_once(" = ").unwrap())
        .map(|(key, value)| (key.to_owned(), value.replace(['"', '[', ']', ' '], "")))
        .collect();
    let env: Vec<(String, &str)> = pairs.iter().map(|(key, value)| (variable(key), value.as_str())).collect();
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    let flags: Vec<String> = pairs.iter().map(|(key, value)| format!("--{key}={value}")).collect();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    assert_eq!(serve(&[], &env), from_file);
    assert_eq!(serve(&flags, &[]), from_file);
    assert_eq!(from_file.to_string(), text, "what is printed can be read again");
    assert_eq!(
        pairs.len(),
        Environment::command().get_arguments().count() - 2,
        "all but --config and the secret"
    );
}

#[test]
fn an_open_address_needs_a_word() {
    let error = parse(&["--listen", "0.0.0.0:8080"], &[]).unwrap_err();
    assert!(
        error.to_string().starts_with("refusing to listen on 0.0.0.0:8080 without credentials"),
        "{error}"
    );
    assert!(matches!(parse(&["--listen", "[::]:1"], &[]), Err(ConfigError::Exposed { .. })));
    assert_eq!(serve(&["--listen", "0.0.0.0:8080", "--auth", "none"], &[]).listen.port(), 8080);
    assert_eq!(serve(&["--listen", "0.0.0.0:1"], &[("FOREBAY_AUTH", "none")]).listen.port(), 1);
    for loopback in ["127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
        serve(&["--listen", loopback], &[]);
    }
}

#[test]
fn mistakes_name_their_source() {
    let usage = |args: &[&str]| match parse(args, &[]).unwrap_err() {
        ConfigError::Usage(error) => error.kind(),
        other => panic!("{other}"),
    };
    assert_eq!(usage(&["--listne", "x"]), ErrorKind::UnknownArgument);
    assert_eq!(usage(&["--shards", "0"]), ErrorKind::ValueValidation);
    assert_eq!(usage(&["--log", "xml"]), ErrorKind::InvalidValue);
    assert_eq!(usage(&["publish"]), ErrorKind::InvalidSubcommand);
    let error = parse(&[], &[("FOREBAY_SHARDS", "many")]).unwrap_err().to_string();
    let expected = "environment variable FOREBAY_SHARDS: must be a whole number from 1 to 1024: value=many";
    assert_eq!(error, expected);
    assert!(parse(&[], &[("FOREBAY_LOG", "xml")]).unwrap_err().to_string().contains("FOREBAY_LOG"));
    let (_folder, path) = file("listne = \"127.0.0.1:1\"");
    let error = parse(&["--config", &path], &[]).unwrap_err().to_string();
    assert!(error.contains(&path) && error.contains("unknown field `listne`"), "{error}");
    assert_eq!(usage(&["--max-streams", "0"]), ErrorKind::ValueValidation);
    assert_eq!(usage(&["--cors-origins", "https://a.example/"]), ErrorKind::ValueValidation);
    let (_folder, path) = file("cors-origins = [\"null\"]");
    let error = parse(&["--config", &path], &[]).unwrap_err().to_string();
    assert!(error.contains("must be a scheme and a host"), "{error}");
    let (_folder, path) = file("shards = 4096");
    assert!(parse(&["--config", &path], &[]).unwrap_err().to_string().contains("from 1 to 1024"));
    assert!(matches!(parse(&["--config", "/nowhere/x"], &[]), Err(ConfigError::Unreadable { .. })));
}

#[test]
fn variables_of_others_and_empty_ones_do_not_count() {
    let env = [("FOREBAY_PORT", "tcp://10.0.0.1:80"), ("FOREBAY_STORE", "")];
    assert_eq!(serve(&[], &env), serve(&[], &[]));
}

#[test]
fn a_store_on_s3_has_its_own_options_and_linger() {
    let on_s3 = ["--store", "s3://bucket"];
    let config = serve(&[&on_s3[..], &["--s3-path-style"]].concat(), &[("FOREBAY_S3_REGION", "x")]);
    assert_eq!((config.s3.path_style, config.s3.region.as_deref()), (true, Some("x")));
    assert_eq!(config.flush_linger, Duration::from_millis(250));
    for option in [
        "--s3-endpoint=http://a",
        "--s3-region=x",
        "--s3-path-style",
        "--replace-node=00000000000000000000000000000007",
    ] {
        let error = parse(&[option], &[]).map(drop).unwrap_err().to_string();
        let name = option.split('=').next().unwrap();
        assert!(error.contains(name), "{error}");
    }
}

#[test]
fn stores_of_this_release_are_folders_buckets_and_memory() {
    let store = |text: &str| text.parse::<StoreUrl>().ok();
    assert_eq!(store("memory:"), Some(StoreUrl::Memory));
    assert_eq!(store("file:./a b"), Some(StoreUrl::File("./a b".into())));
    assert_eq!(store("file:///var/x"), Some(StoreUrl::File("/var/x".into())));
    for text in
        ["", "memory", "memory:x", "file:", "file://", "file://host/x", "s3://x", "gs://bucket", "./store"]
    {
        assert_eq!(store(text), None, "{text}");
    }
}

#[test]
fn sizes_have_units_and_a_lower_bound() {
    let size = |text: &str| text.parse::<ByteSize>().map(|size| size.0).ok();
    assert_eq!(size("67108864"), Some(64 << 20));
    assert_eq!(size("512MiB"), Some(512 << 20));
    assert_eq!(size("3 GiB"), Some(3 << 30));
    for text in ["", "1", "10GB", "-1GiB", "99999999999TiB", "MiB"] {
        assert_eq!(size(text), None, "{text}");
    }
    assert_eq!(ByteSize(100 << 20).to_string(), "100MiB");
    assert_eq!(ByteSize(1025).to_string(), "1025");
}

#[test]
fn the_help_names_the_variable_and_the_default_of_every_option() {
    Cli::command().debug_assert();
    let help = Cli::command().term_width(0).render_long_help().to_string();
    for arg in Environment::command().get_arguments() {
        let flag = arg.get_long().unwrap();
        assert!(help.contains(&format!("[env: {}]", variable(flag))), "{flag}");
        let about = arg.get_help().unwrap().to_string();
        assert!(flag == "config" || about.contains("[default: "), "{flag}");
    }
    assert_eq!(parse(&["openapi"], &[]).unwrap(), Command::Openapi);
}

#[test]
fn a_secret_is_known_and_never_shown() {
    let secret = "sixteen-or-more-letters";
    let (_folder, path) =
        file(&format!("cluster-secret = \"{secret}\"\nredis = \"redis://:word@127.0.0.1\""));
    let args =
        ["--store=s3://bucket/a", "--cluster-listen=0.0.0.0:7070", "--advertise=a:1", "--config", &path];
    let config = serve(&args, &[]);
    let cluster = config.cluster.as_ref().unwrap();
    assert_eq!(cluster.secret, Some(secret.parse().unwrap()));
    for shown in [config.to_string(), format!("{config:?}")] {
        assert!(!shown.contains(secret) && !shown.contains("word"), "{shown}");
    }
    for wrong in ["FOREBAY_REDIS", "FOREBAY_CLUSTER_SECRET"] {
        let env = [("FOREBAY_REDIS", "redis://127.0.0.1"), (wrong, "word")];
        let error = parse(&["--store=s3://bucket/a"], &env).unwrap_err().to_string();
        assert!(!error.contains("word"), "{error}");
    }
    for wrong in ["redis = redis://:word@127.0.0.1", "cluster-secret = 1234567890", "cluster-secret = \"word"]
    {
        let (_folder, path) = file(&format!("shards = 2\n{wrong}"));
        let error = parse(&["--config", &path], &[]).unwrap_err().to_string();
        assert!(error.contains("line 2: "), "{error}");
        assert!(!error.contains("word") && !error.contains("1234"), "{error}");
    }
}

#[test]
fn one_of_many_nodes_says_what_the_others_need() {
    let error = |args: &[&str]| parse(args, &[]).unwrap_err().to_string();
    let redis = "--redis=redis://127.0.0.1";
    assert!(error(&[redis]).starts_with("--redis is for a store of s3:"));
    let on_s3 = |more: &[&'static str]| {
        let mut args = vec!["--store=s3://bucket/a"];
        args.extend(more);
        args
    };
    assert_eq!(serve(&on_s3(&[redis]), &[]).shards, 4);
    assert!(error(&on_s3(&["--advertise=a:1"])).contains("needs --redis"));
    assert!(error(&on_s3(&[redis, "--cluster-listen=0.0.0.0:1"])).contains("--advertise"));
    assert!(error(&on_s3(&[redis, "--cluster-listen=10.0.0.1:1"])).contains("--cluster-secret"));
    assert!(error(&on_s3(&[redis, "--cluster-secret=short"])).contains("--cluster-secret cannot be used"));
    assert!(error(&on_s3(&[redis, "--cluster-tls-ca=a"])).contains("--cluster-tls-key"));
    for advertise in ["--advertise=a", "--advertise=:1", "--advertise=a:0", "--advertise=a b:1"] {
        assert!(parse(&on_s3(&[redis, advertise]), &[]).is_err(), "{advertise}");
    }
}

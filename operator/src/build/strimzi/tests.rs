use serde_json::json;

use super::*;

/// A Kafka as Strimzi's documentation has it, with the listeners that people have.
fn found() -> FoundKafka {
    serde_json::from_value(json!({
        "spec": { "kafka": {
            "listeners": [
                { "name": "plain", "port": 9092, "type": "internal", "tls": false },
                { "name": "mtls", "port": 9094, "type": "internal", "tls": true, "authentication": { "type": "tls" } },
                { "name": "scram", "port": 9095, "type": "internal", "tls": true, "authentication": { "type": "scram-sha-512" } },
                { "name": "late", "port": 9096, "type": "internal", "tls": true },
            ],
            "authorization": { "type": "simple" },
        } },
        "status": { "listeners": [
            { "name": "plain", "bootstrapServers": "k-kafka-bootstrap.shop.svc:9092", "addresses": [] },
            { "name": "scram", "bootstrapServers": "k-kafka-bootstrap.shop.svc:9095", "certificates": ["..."] },
        ] },
    }))
    .unwrap()
}

fn reach(kafka: &FoundKafka, listener: Option<&str>) -> Result<Kafka, String> {
    let wanted = StrimziKafka { cluster: "k".to_owned(), listener: listener.map(str::to_owned), replicas: None };
    kafka.reach(&wanted).map_err(|unusable| unusable.to_string())
}

#[test]
fn the_encrypted_listener_with_passwords_is_taken_unless_another_is_named() {
    let scram = reach(&found(), None).unwrap();
    assert_eq!(scram.bootstrap_servers, "k-kafka-bootstrap.shop.svc:9095");
    assert_eq!((scram.tls, scram.ca.as_deref()), (true, Some("k-cluster-ca-cert")));
    assert_eq!(scram.user, Some(User::OfEachPart));
    let plain = reach(&found(), Some("plain")).unwrap();
    assert_eq!((plain.tls, plain.ca, plain.user), (false, None, None));
}

#[test]
fn what_cannot_be_used_says_what_to_do() {
    let missing = reach(&found(), Some("nonsense")).unwrap_err();
    assert!(missing.contains("no listener named nonsense") && missing.contains("add one"), "{missing}");
    let none = reach(&FoundKafka::default(), None).unwrap_err();
    assert!(none.contains("internal, with TLS and SCRAM-SHA-512"), "{none}");
    let mutual = reach(&found(), Some("mtls")).unwrap_err();
    assert!(mutual.contains("wants tls"), "{mutual}");
    let late = reach(&found(), Some("late")).unwrap_err();
    assert!(late.contains("waiting for the Kafka k"), "{late}");
}

#[test]
fn a_topics_resource_has_a_name_that_kubernetes_allows() {
    assert_eq!(topic_object("account.signups"), "account.signups");
    for odd in ["account.signup_request", "Account", "a..b", "-a", "a.", "_"] {
        let name = topic_object(odd);
        let good = |part: &str| {
            !part.is_empty()
                && !part.starts_with('-')
                && !part.ends_with('-')
                && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        };
        assert!(name.split('.').all(good), "{odd}: {name}");
    }
    assert_ne!(topic_object("a_b"), topic_object("a-B"), "two topics never share a resource");
}

#[test]
fn strimzis_word_is_passed_on() {
    let status = |value| serde_json::from_value::<ReadyStatus>(value).unwrap().not_ready();
    let said = json!({ "conditions": [{ "type": "Ready", "status": "False", "reason": "X", "message": "no broker" }] });
    assert_eq!(status(said).as_deref(), Some("no broker"));
    assert_eq!(status(json!({ "conditions": [{ "type": "Ready", "status": "True" }] })), None);
    assert!(status(json!({})).is_some());
}

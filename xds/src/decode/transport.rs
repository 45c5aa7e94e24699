//! Reads the transport socket of a cluster: whether its endpoints are spoken to by TLS, and who they may be.
//!
//! The sidecar has its own certificate and its own roots, and speaks TLS 1.3 with SPIFFE ids only. So where a certificate
//! comes from is passed over, and what would loosen or change the check of the peer is refused.
#![allow(deprecated, reason = "the older list of names is what gRPC reads and what Istio writes")]

use config::model::EndpointTls;
use config::spiffe::SpiffeId;

use crate::decode::at::{At, understood};
use crate::filters::TLS;
use crate::pb::core::TransportSocket;
use crate::pb::core::transport_socket::ConfigType;
use crate::pb::matcher::StringMatcher;
use crate::pb::matcher::string_matcher::MatchPattern;
use crate::pb::tls::common_tls_context::{CombinedCertificateValidationContext, ValidationContextType};
use crate::pb::tls::subject_alt_name_matcher::SanType;
use crate::pb::tls::tls_parameters::TlsProtocol;
use crate::pb::tls::{
    CertificateValidationContext, CommonTlsContext, SubjectAltNameMatcher, TlsParameters, UpstreamTlsContext,
};
use crate::refusal::Refusal;
use crate::wire;

/// Envoy's transport socket of plain text.
const RAW: &str = "envoy.transport_sockets.raw_buffer";

/// What the sidecar speaks over TLS.
const H2: &str = "h2";

/// How the endpoints of a cluster are spoken to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Security {
    /// By TLS or in plain text.
    pub(crate) tls: EndpointTls,
    /// Who they may be; empty for plain text.
    pub(crate) identities: Vec<SpiffeId>,
}

/// Reads the transport socket that stands at `at`; none is plain text.
pub(crate) fn read(socket: Option<&TransportSocket>, at: &At<'_>) -> Result<Security, Refusal> {
    let plain = Security { tls: EndpointTls::None, identities: Vec::new() };
    let Some(socket) = socket else { return Ok(plain) };
    let config = match &socket.config_type {
        Some(ConfigType::TypedConfig(config)) => config,
        None if socket.name == RAW => return Ok(plain),
        None => return Err(at.field("typed_config").refuse("there is none")),
    };
    let at = at.field("typed_config");
    if config.type_url.ends_with(".RawBuffer") {
        return Ok(plain);
    }
    let Some(context) = wire::unpack::<UpstreamTlsContext>(config, &at)? else {
        let why = format!("`{}` is not supported; write `{TLS}` with an UpstreamTlsContext", config.type_url);
        return Err(at.refuse(why));
    };
    let identities = upstream(&context, &at)?;
    Ok(Security { tls: EndpointTls::Mesh, identities })
}

fn upstream(context: &UpstreamTlsContext, at: &At<'_>) -> Result<Vec<SpiffeId>, Refusal> {
    // The sidecar sends no SNI and resumes no session; who the peer is, its names say.
    understood! { context => UpstreamTlsContext, at;
        take { common_tls_context }
        ignore { sni, auto_host_sni, max_session_keys, enforce_rsa_key_usage }
        refuse "peers are SPIFFE ids; list them in `match_typed_subject_alt_names`" { auto_sni_san_validation }
        refuse "TLS 1.3 has no renegotiation" { allow_renegotiation }
    }
    let at = at.field("common_tls_context");
    let Some(common) = common_tls_context else {
        return Err(at.refuse(NO_NAMES));
    };
    common_context(common, &at)
}

const NO_NAMES: &str =
    "it does not say who the servers are; list their SPIFFE ids in the `validation_context`";

fn common_context(common: &CommonTlsContext, at: &At<'_>) -> Result<Vec<SpiffeId>, Refusal> {
    understood! { common => CommonTlsContext, at;
        take { tls_params, alpn_protocols, validation_context_type }
        // Where the client's certificate comes from.
        ignore {
            tls_certificates, tls_certificate_sds_secret_configs, tls_certificate_provider_instance,
            tls_certificate_certificate_provider, tls_certificate_certificate_provider_instance, key_log,
        }
        refuse "the sidecar chooses its certificate by itself" { custom_tls_certificate_selector }
        refuse "the sidecar has one way to shake hands" { custom_handshaker }
    }
    if let Some(params) = tls_params {
        self::params(params, &at.field("tls_params"))?;
    }
    if !alpn_protocols.is_empty() && !alpn_protocols.iter().any(|protocol| protocol == H2) {
        return Err(at.field("alpn_protocols").refuse("the sidecar speaks `h2`, which is not in the list"));
    }
    let validation = match validation_context_type {
        Some(ValidationContextType::ValidationContext(validation)) => {
            self::validation(validation, &at.field("validation_context"))?
        }
        Some(ValidationContextType::CombinedValidationContext(combined)) => {
            let at = at.field("combined_validation_context");
            understood! { combined => CombinedCertificateValidationContext, &at;
                take { default_validation_context }
                // Where roots come from.
                ignore {
                    validation_context_sds_secret_config, validation_context_certificate_provider,
                    validation_context_certificate_provider_instance,
                }
            }
            match default_validation_context {
                Some(validation) => self::validation(validation, &at.field("default_validation_context"))?,
                None => Vec::new(),
            }
        }
        _ => Vec::new(),
    };
    match validation.is_empty() {
        false => Ok(validation),
        true => Err(at.refuse(NO_NAMES)),
    }
}

fn params(params: &TlsParameters, at: &At<'_>) -> Result<(), Refusal> {
    // Suites can be chosen below TLS 1.3 only.
    understood! { params => TlsParameters, at;
        take { tls_maximum_protocol_version }
        ignore { tls_minimum_protocol_version, cipher_suites }
        refuse "the sidecar chooses by itself" { ecdh_curves, signature_algorithms, compliance_policies }
    }
    match TlsProtocol::try_from(*tls_maximum_protocol_version) {
        Ok(TlsProtocol::TlsAuto | TlsProtocol::TlSv13) => Ok(()),
        _ => {
            Err(at.field("tls_maximum_protocol_version").refuse("the sidecar speaks TLS 1.3 only; allow it"))
        }
    }
}

fn validation(validation: &CertificateValidationContext, at: &At<'_>) -> Result<Vec<SpiffeId>, Refusal> {
    understood! { validation => CertificateValidationContext, at;
        take { match_typed_subject_alt_names, match_subject_alt_names }
        // Where roots come from.
        ignore { trusted_ca, ca_certificate_provider_instance, watched_directory, suppress_client_ca_list }
        refuse "the roots are those of the sidecar's identity" { system_root_certs }
        refuse "who a peer is, its SPIFFE id says" { verify_certificate_spki, verify_certificate_hash }
        refuse "it is not checked" { require_signed_certificate_timestamp, crl, only_verify_leaf_cert_crl }
        refuse "certificates are always checked as a whole" {
            allow_expired_certificate, trust_chain_verification, max_verify_depth, custom_validator_config,
        }
    }
    let mut ids = Vec::new();
    for (i, name) in match_typed_subject_alt_names.iter().enumerate() {
        let at = at.item("match_typed_subject_alt_names", i);
        understood! { name => SubjectAltNameMatcher, &at;
            take { san_type, matcher }
            ignore { oid }
        }
        if *san_type != i32::from(SanType::Uri) {
            return Err(at.field("san_type").refuse("peers are known by SPIFFE ids; write URI"));
        }
        ids.push(id(matcher.as_ref(), &at.field("matcher"))?);
    }
    for (i, name) in match_subject_alt_names.iter().enumerate() {
        ids.push(id(Some(name), &at.item("match_subject_alt_names", i))?);
    }
    Ok(ids)
}

fn id(matcher: Option<&StringMatcher>, at: &At<'_>) -> Result<SpiffeId, Refusal> {
    let pattern =
        matcher.filter(|matcher| !matcher.ignore_case).and_then(|matcher| matcher.match_pattern.as_ref());
    match pattern {
        Some(MatchPattern::Exact(text)) => {
            SpiffeId::parse(text).map_err(|rule| at.field("exact").refuse(format!("`{text}`: {rule}")))
        }
        _ => Err(at.refuse("write a whole SPIFFE id, as `exact`")),
    }
}

//! How a client proves who it is and whom it believes: the TLS context of a cluster.
#![allow(deprecated, reason = "gRPC reads the names of a certificate from a field that Envoy has deprecated")]

use config::spiffe::SpiffeId;

use crate::audience::{Audience, Certificates, Client};
use crate::filters::TLS;
use crate::pb::core::api_config_source::ApiType;
use crate::pb::core::config_source::ConfigSourceSpecifier;
use crate::pb::core::data_source::Specifier;
use crate::pb::core::grpc_service::{EnvoyGrpc, TargetSpecifier};
use crate::pb::core::transport_socket::ConfigType;
use crate::pb::core::{ApiConfigSource, ApiVersion, ConfigSource, DataSource, GrpcService, TransportSocket};
use crate::pb::matcher::StringMatcher;
use crate::pb::matcher::string_matcher::MatchPattern;
use crate::pb::protobuf::Duration;
use crate::pb::tls::common_tls_context::{CombinedCertificateValidationContext, ValidationContextType};
use crate::pb::tls::subject_alt_name_matcher::SanType;
use crate::pb::tls::tls_parameters::TlsProtocol;
use crate::pb::tls::{
    CertificateProviderPluginInstance, CertificateValidationContext, CommonTlsContext, SdsSecretConfig,
    SubjectAltNameMatcher, TlsCertificate, TlsParameters, UpstreamTlsContext,
};
use crate::wire;

/// Between the file of a certificate and that of its key.
const FILES: char = ',';

/// What Envoy speaks over TLS.
const ALPN: &str = "h2";

/// The transport socket of a cluster whose servers prove one of `identities`. None where the client has no certificate.
pub(crate) fn socket(identities: &[SpiffeId], audience: &Audience) -> Option<TransportSocket> {
    let common = match (&audience.client, &audience.certificates) {
        // Which of its endpoints are spoken to by TLS it knows by itself, and by which certificate too.
        (Client::Outrigger, _) => CommonTlsContext {
            validation_context_type: Some(ValidationContextType::ValidationContext(typed(identities))),
            ..CommonTlsContext::default()
        },
        (_, None | Some(Certificates::Own)) => return None,
        (_, Some(Certificates::Provider(name))) => of_provider(identities, name),
        (_, Some(Certificates::Secrets { identity, roots, sds })) => {
            of_secrets(identities, identity, roots, sds.as_deref())
        }
    };
    let context = UpstreamTlsContext { common_tls_context: Some(common), ..UpstreamTlsContext::default() };
    let config = ConfigType::TypedConfig(wire::pack(&context));
    Some(TransportSocket { name: TLS.to_owned(), config_type: Some(config) })
}

/// gRPC (gRFC A29). It reads the older of the two lists of names, and passes over the typed one.
fn of_provider(identities: &[SpiffeId], name: &str) -> CommonTlsContext {
    let instance = || {
        let instance_name = name.to_owned();
        Some(CertificateProviderPluginInstance {
            instance_name,
            ..CertificateProviderPluginInstance::default()
        })
    };
    let validation = CertificateValidationContext {
        ca_certificate_provider_instance: instance(),
        match_subject_alt_names: identities.iter().map(exactly).collect(),
        ..CertificateValidationContext::default()
    };
    CommonTlsContext {
        tls_certificate_provider_instance: instance(),
        validation_context_type: Some(ValidationContextType::ValidationContext(validation)),
        ..CommonTlsContext::default()
    }
}

/// Envoy: secrets by their names, or files. Keys never go over ADS.
fn of_secrets(identities: &[SpiffeId], identity: &str, roots: &str, sds: Option<&str>) -> CommonTlsContext {
    let mut context = CommonTlsContext {
        // Without it Envoy as a client stops at TLS 1.2.
        tls_params: Some(TlsParameters {
            tls_maximum_protocol_version: TlsProtocol::TlSv13.into(),
            ..TlsParameters::default()
        }),
        alpn_protocols: vec![ALPN.to_owned()],
        ..CommonTlsContext::default()
    };
    match identity.starts_with('/') {
        true => {
            // One file may hold both.
            let (cert, key) = identity.split_once(FILES).unwrap_or((identity, identity));
            context.tls_certificates = vec![TlsCertificate {
                certificate_chain: Some(file(cert)),
                private_key: Some(file(key)),
                ..TlsCertificate::default()
            }];
        }
        false => context.tls_certificate_sds_secret_configs = vec![secret(identity, sds)],
    }
    let validation = typed(identities);
    context.validation_context_type = Some(match roots.starts_with('/') {
        true => {
            let trusted_ca = Some(file(roots));
            ValidationContextType::ValidationContext(CertificateValidationContext {
                trusted_ca,
                ..validation
            })
        }
        false => ValidationContextType::CombinedValidationContext(CombinedCertificateValidationContext {
            default_validation_context: Some(validation),
            validation_context_sds_secret_config: Some(secret(roots, sds)),
            ..CombinedCertificateValidationContext::default()
        }),
    });
    context
}

fn typed(identities: &[SpiffeId]) -> CertificateValidationContext {
    let matcher = |id: &SpiffeId| SubjectAltNameMatcher {
        san_type: SanType::Uri.into(),
        matcher: Some(exactly(id)),
        ..SubjectAltNameMatcher::default()
    };
    CertificateValidationContext {
        match_typed_subject_alt_names: identities.iter().map(matcher).collect(),
        ..CertificateValidationContext::default()
    }
}

fn exactly(id: &SpiffeId) -> StringMatcher {
    let pattern = MatchPattern::Exact(id.as_str().to_owned());
    StringMatcher { match_pattern: Some(pattern), ..StringMatcher::default() }
}

/// A secret without a place to ask for it is one of Envoy's bootstrap.
fn secret(name: &str, sds: Option<&str>) -> SdsSecretConfig {
    let sds_config = sds.map(asked_of);
    SdsSecretConfig { name: name.to_owned(), sds_config }
}

/// A cluster that speaks SDS. A cluster of ours waits for its secrets for as long as it takes: after a time that is too short Envoy would
/// put one that cannot speak TLS in the place of one that can.
fn asked_of(cluster: &str) -> ConfigSource {
    let envoy = EnvoyGrpc { cluster_name: cluster.to_owned(), ..EnvoyGrpc::default() };
    let service =
        GrpcService { target_specifier: Some(TargetSpecifier::EnvoyGrpc(envoy)), ..GrpcService::default() };
    let source = ApiConfigSource {
        api_type: ApiType::Grpc.into(),
        transport_api_version: ApiVersion::V3.into(),
        grpc_services: vec![service],
        ..ApiConfigSource::default()
    };
    ConfigSource {
        resource_api_version: ApiVersion::V3.into(),
        initial_fetch_timeout: Some(Duration::default()),
        config_source_specifier: Some(ConfigSourceSpecifier::ApiConfigSource(source)),
        ..ConfigSource::default()
    }
}

fn file(path: &str) -> DataSource {
    DataSource { specifier: Some(Specifier::Filename(path.to_owned())), ..DataSource::default() }
}

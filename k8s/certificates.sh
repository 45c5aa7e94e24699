#!/bin/sh
# Makes the identities: an authority, a leaf for each service account and one for the control plane, and one file
# of Secrets.
#
#   k8s/certificates.sh [FOLDER [ACCOUNT...]]      FOLDER: certificates; ACCOUNT: every service of the store
#
# NAMESPACE (shop), CONTROL_NAMESPACE (outrigger), TRUST_DOMAIN (cluster.local), CLUSTER_DOMAIN (cluster.local) and
# DAYS (30) may be set in the environment. Run it again to renew the leaves: the authority in FOLDER is kept. Whoever has FOLDER/ca.key can be anybody in the mesh.
set -eu
umask 077

folder=${1:-certificates}
[ $# -eq 0 ] || shift
[ $# -gt 0 ] || set -- users products payments orders storefront
namespace=${NAMESPACE:-shop}
control_namespace=${CONTROL_NAMESPACE:-outrigger}
cluster_domain=${CLUSTER_DOMAIN:-cluster.local}
trust_domain=${TRUST_DOMAIN:-cluster.local}
days=${DAYS:-30}
new_key="-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"

mkdir -p "$folder"
cd "$folder"
if ! [ -s ca.key ]; then
    # shellcheck disable=SC2086  # the words of new_key are to be split
    openssl req -x509 $new_key -days 3650 -subj "/CN=$trust_domain" -keyout ca.key -out ca.crt 2>/dev/null
fi

# A PEM file as the value of a key of `stringData`.
entry() {
    printf '  %s: |\n' "$1"
    sed -n '/^-----BEGIN/,/^-----END/s/^/    /p' "$2"
}

# leaf ACCOUNT NAMESPACE [NAME...]: the Secret of a service account, whose certificate proves these DNS names too.
leaf() {
    account=$1 home=$2
    shift 2
    names="URI:spiffe://$trust_domain/ns/$home/sa/$account"
    for name in "$@"; do names="$names,DNS:$name"; done
    # shellcheck disable=SC2086
    openssl req $new_key -subj "/CN=$account" -keyout leaf.key -out leaf.csr 2>/dev/null
    cat >leaf.ext <<END
subjectAltName = $names
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
END
    openssl x509 -req -in leaf.csr -CA ca.crt -CAkey ca.key -set_serial "0x$(openssl rand -hex 15)" \
        -days "$days" -extfile leaf.ext -out leaf.crt 2>/dev/null
    {
        printf -- '---\napiVersion: v1\nkind: Secret\ntype: kubernetes.io/tls\n'
        printf 'metadata: {name: %s-identity, namespace: %s}\nstringData:\n' "$account" "$home"
        entry tls.crt leaf.crt
        entry tls.key leaf.key
        entry ca.crt ca.crt
    } >>secrets.yaml
    rm leaf.key leaf.csr leaf.ext leaf.crt
}

: >secrets.yaml
# Its clients check the name that they dial.
at=outrigger-control.$control_namespace.svc
leaf outrigger-control "$control_namespace" "$at.$cluster_domain" "$at"
for account in "$@"; do
    leaf "$account" "$namespace"
done
echo "kubectl apply -f $folder/secrets.yaml"

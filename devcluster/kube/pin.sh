#!/bin/sh
# Writes go.mod and go.sum of this module for one version of Kubernetes: pin.sh KUBERNETES_MINOR.PATCH ETCD, e.g. pin.sh 37.2 3.7.0
# Kubernetes is no library: its go.mod points 30 modules at its own staging folder, so each needs a replacement here.
set -eu
[ $# = 2 ] || { echo "usage: pin.sh KUBERNETES_MINOR.PATCH ETCD_VERSION   e.g. pin.sh 37.2 3.7.0" >&2; exit 64; }
kubernetes=v1.$1 staging=v0.$1 etcd=v$2
cd "$(dirname "$0")"
rm -f go.mod go.sum
go mod init cachecluster.io/devcluster/kube
upstream=$(go mod download -json "k8s.io/kubernetes@$kubernetes" | sed -n 's/^\t"GoMod": "\(.*\)",$/\1/p')
go mod edit -go="$(sed -n 's/^go //p' "$upstream")" -require="k8s.io/kubernetes@$kubernetes"
sed -n 's|^\t\(k8s.io/[^ ]*\) => ./staging/src/.*|\1|p' "$upstream" | while read -r module; do
    go mod edit -replace="$module=$module@$staging"
done
go get "go.etcd.io/etcd/server/v3@$etcd"
go mod tidy

"""Findings of checkov that are accepted, each with its reason. One that is not found any more is an error, too."""

ACCEPTED = {
    "CKV_K8S_43": "an image gets its digest from the registry: whoever pushes it names it by that in an overlay",
    "CKV_K8S_15": "tags are never moved; asking the registry at every start would make it needed for every restart",
    "CKV_DOCKER_2": "an image from scratch has nothing to ask with, and Kubernetes has probes of its own",
}

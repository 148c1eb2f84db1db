# MinIO as a user of its own: the image below runs as root. A new volume takes its owner from the folder that it covers.
ARG IMAGE
FROM ${IMAGE}
USER 10001
WORKDIR /store
# Where it looks for certificates, and makes a folder for them.
ENV HOME=/tmp

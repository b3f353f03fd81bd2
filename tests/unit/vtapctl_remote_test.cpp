// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <fstream>

#include "vtapctl_fake.hpp"

/// vtapctl over TCP: addresses, tokens, certificates.
namespace vtap::ctl {
namespace {

TEST(Addresses, AreHttpOrHttps) {
  const auto text = [](const char* url) {
    const auto parsed = parse_url(url);
    return parsed ? parsed.value().text() : "-";
  };
  EXPECT_EQ(text("http://127.0.0.1:9470"), "http://127.0.0.1:9470");
  EXPECT_EQ(text("https://npb1.example/"), "https://npb1.example:443");
  EXPECT_EQ(text("http://npb1"), "http://npb1:80");
  EXPECT_EQ(text("https://[2001:db8::a]:9470"), "https://[2001:db8::a]:9470");
  EXPECT_EQ(text("https://[::1]"), "https://[::1]:443");
  for (const char* wrong :
       {"", "npb1:9470", "ftp://npb1", "http://", "http://:9470", "http://npb1:", "http://npb1:0",
        "http://npb1:65536", "http://npb1:9x", "http://npb1/path", "http://me@npb1", "http://[::1",
        "http://[::1]x", "http://npb1?x", "http://2001:db8::1", "http://a b"}) {
    const auto parsed = parse_url(wrong);
    ASSERT_FALSE(parsed.ok()) << wrong;
    EXPECT_EQ(parsed.error().kind, ErrorKind::usage);
  }
}

TEST(Addresses, OfThisMachine) {
  for (const char* local :
       {"http://127.0.0.1", "http://127.9.9.9", "http://localhost", "http://[::1]:80"}) {
    EXPECT_TRUE(parse_url(local).value().is_local()) << local;
  }
  for (const char* other : {"http://127.evil.example", "http://10.0.0.1", "http://[::2]"}) {
    EXPECT_FALSE(parse_url(other).value().is_local()) << other;
  }
}

class Remote : public InDirectory {
 protected:
  void SetUp() override {
    InDirectory::SetUp();
    std::ofstream(path("token")) << "s3cret\n";
  }
};

TEST_F(Remote, TheTokenGoesAlong) {
  FakeBroker broker(std::make_unique<httplib::Server>());
  broker.answer("POST /v1/reload", 200, R"({"generation":2})");
  const std::string url = "http://127.0.0.1:" + std::to_string(broker.port());
  const Ran ran = World{}.run({"reload", "--url", url, "--token-file", path("token")});
  EXPECT_EQ(ran.code, 0) << ran.err;
  EXPECT_EQ(broker.only().token, "Bearer s3cret");
  World world;
  world.environment = {{"VTAP_URL", url}, {"VTAP_TOKEN_FILE", path("token")}};
  EXPECT_EQ(world.run({"reload"}).code, 0);
  EXPECT_EQ(broker.asked()[1].token, "Bearer s3cret");
  EXPECT_EQ(World{}.run({"reload", "--url", url}).code, 0);
  EXPECT_EQ(broker.asked()[2].token, "");
}

TEST_F(Remote, ASocketThatIsNamedBeatsTheEnvironment) {
  FakeBroker tcp(std::make_unique<httplib::Server>());
  FakeBroker local(path("b.sock"));
  local.answer("GET /v1/stats", 200, "{}");
  World world;
  world.environment = {{"VTAP_URL", "http://127.0.0.1:" + std::to_string(tcp.port())},
                       {"VTAP_TOKEN_FILE", path("token")}};
  EXPECT_EQ(world.run({"stats", "--socket", path("b.sock")}).code, 0);
  EXPECT_EQ(local.only().token, "");
  EXPECT_TRUE(tcp.asked().empty());
}

TEST_F(Remote, WhatWouldNotDoIsRefused) {
  std::ofstream(path("empty")) << "";
  std::ofstream(path("two")) << "a\nb\n";
  std::ofstream(path("odd")) << "a b\n";
  const std::vector<std::vector<std::string>> wrong = {
      {"--url", "http://10.255.255.1:9470", "--token-file", path("token")},  // for all to read
      {"--url", "http://127.0.0.1:1", "--token-file", path("absent")},
      {"--url", "http://127.0.0.1:1", "--token-file", path("empty")},
      {"--url", "http://127.0.0.1:1", "--token-file", path("two")},
      {"--url", "http://127.0.0.1:1", "--token-file", path("odd")},
      {"--url", "http://127.0.0.1:1", "--cacert", path("token")},
      {"--url", "https://127.0.0.1:1", "--cacert", path("absent")},
      {"--url", "npb1"},
      {"--token-file", path("token")},
      {"--cacert", path("token")}};
  for (auto arguments : wrong) {
    arguments.push_back("stats");
    const Ran ran = World{}.run(arguments);
    EXPECT_EQ(ran.code, 2) << arguments[1] << " " << ran.err;
    EXPECT_EQ(ran.err.find("s3cret"), std::string::npos);
  }
}

TEST_F(Remote, NobodyThere) {
  int port = 0;
  {
    const FakeBroker gone(std::make_unique<httplib::Server>());
    port = gone.port();
  }
  const std::string url = "http://127.0.0.1:" + std::to_string(port);
  const Ran ran = World{}.run({"--url", url, "stats"});
  EXPECT_EQ(ran.code, 1);
  EXPECT_TRUE(has(ran.err, "no vtap-broker at " + url));
  EXPECT_TRUE(has(ran.err, "broker.api"));
}

TEST_F(Remote, TheTokenIsNotTheRightOne) {
  FakeBroker broker(std::make_unique<httplib::Server>());
  broker.answer("GET /v1/stats", 401, R"({"error":"wrong token"})");
  const std::string url = "http://127.0.0.1:" + std::to_string(broker.port());
  const Ran ran = World{}.run({"--url", url, "--token-file", path("token"), "stats"});
  EXPECT_EQ(ran.code, 1);
  EXPECT_TRUE(has(ran.err, "wrong token"));
  EXPECT_TRUE(has(ran.err, "broker.api_token_file"));
}

// ---- TLS

/// A key, and a certificate for `names` that it signed itself.
class Certificate {
 public:
  explicit Certificate(const char* names)
      : key_(EVP_RSA_gen(2048), EVP_PKEY_free), x509_(X509_new(), X509_free) {
    X509_set_version(x509_.get(), 2);
    ASN1_INTEGER_set(X509_get_serialNumber(x509_.get()), 1);
    X509_gmtime_adj(X509_getm_notBefore(x509_.get()), -60);
    X509_gmtime_adj(X509_getm_notAfter(x509_.get()), 3600);
    X509_set_pubkey(x509_.get(), key_.get());
    X509_NAME* name = X509_get_subject_name(x509_.get());
    X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC,
                               reinterpret_cast<const unsigned char*>("npb1"), -1, -1, 0);
    X509_set_issuer_name(x509_.get(), name);
    X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, nullptr, NID_subject_alt_name, names);
    X509_add_ext(x509_.get(), extension, -1);
    X509_EXTENSION_free(extension);
    EXPECT_GT(X509_sign(x509_.get(), key_.get(), EVP_sha256()), 0);
  }

  [[nodiscard]] std::unique_ptr<httplib::Server> server() const {
    return std::make_unique<httplib::SSLServer>(x509_.get(), key_.get());
  }

  void write(const std::string& file) const {
    std::FILE* out = std::fopen(file.c_str(), "w");
    PEM_write_X509(out, x509_.get());
    std::fclose(out);
  }

 private:
  std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)> key_;
  std::unique_ptr<X509, decltype(&X509_free)> x509_;
};

TEST_F(Remote, TlsAsksForTheCertificate) {
  const Certificate certificate("IP:127.0.0.1");
  certificate.write(path("ca.pem"));
  FakeBroker broker(certificate.server());
  broker.answer("GET /v1/stats", 200, "{}");
  const std::string url = "https://127.0.0.1:" + std::to_string(broker.port());
  const Ran trusted = World{}.run(
      {"--url", url, "--cacert", path("ca.pem"), "--token-file", path("token"), "stats", "--json"});
  EXPECT_EQ(trusted.code, 0) << trusted.err;
  EXPECT_EQ(trusted.out, "{}\n");
  EXPECT_EQ(broker.only().token, "Bearer s3cret");

  const Ran unknown = World{}.run({"--url", url, "--token-file", path("token"), "stats"});
  EXPECT_EQ(unknown.code, 1);
  EXPECT_TRUE(has(unknown.err, "self-signed certificate"));
  EXPECT_TRUE(has(unknown.err, "--cacert FILE"));
  EXPECT_EQ(broker.asked().size(), 1U);  // no token for a stranger
}

TEST_F(Remote, TlsOfAnotherHost) {
  const Certificate certificate("DNS:npb2.example");
  certificate.write(path("ca.pem"));
  FakeBroker broker(certificate.server());
  const std::string url = "https://127.0.0.1:" + std::to_string(broker.port());
  const Ran ran = World{}.run({"--url", url, "--cacert", path("ca.pem"), "stats"});
  EXPECT_EQ(ran.code, 1);
  EXPECT_TRUE(has(ran.err, "it is not for \"127.0.0.1\""));
  EXPECT_TRUE(broker.asked().empty());
}

TEST_F(Remote, NoTlsThere) {
  FakeBroker broker(std::make_unique<httplib::Server>());
  const std::string url = "https://127.0.0.1:" + std::to_string(broker.port());
  const Ran ran = World{}.run({"--url", url, "stats"});
  EXPECT_EQ(ran.code, 1);
  EXPECT_TRUE(has(ran.err, "broker.api_cert"));
}

}  // namespace
}  // namespace vtap::ctl

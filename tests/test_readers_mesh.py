import gzip
import re

import pytest

from angel_trl.kb import Concept
from angel_trl.readers import read_concepts
from angel_trl.readers.mesh import read_mesh

DECLARATION = '<?xml version="1.0" encoding="UTF-8"?>\n'
DOCTYPE = '<!DOCTYPE DescriptorRecordSet SYSTEM "https://www.nlm.nih.gov/databases/dtd/nlmdescriptorrecordset_20250101.dtd">\n'
ATAXIA = """<DescriptorRecord DescriptorClass = "1">
  <DescriptorUI>D001259</DescriptorUI>
  <DescriptorName><String>Ataxia</String></DescriptorName>
  <SeeRelatedList><SeeRelatedDescriptor><DescriptorReferredTo>
    <DescriptorUI>D002524</DescriptorUI><DescriptorName><String>Cerebellar Ataxia</String></DescriptorName>
  </DescriptorReferredTo></SeeRelatedDescriptor></SeeRelatedList>
  <TreeNumberList><TreeNumber>C10.597.350.090</TreeNumber><TreeNumber>C23.888</TreeNumber>
    <TreeNumber>E01.370</TreeNumber></TreeNumberList>
  <ConceptList>
    <Concept PreferredConceptYN="Y"><ConceptUI>M0001861</ConceptUI>
      <ConceptName><String>Ataxia</String></ConceptName>
      <ScopeNote>Impairment of
          coordination.</ScopeNote>
      <TermList>
        <Term RecordPreferredTermYN="Y"><TermUI>T003553</TermUI><String>Ataxia</String></Term>
        <Term><String>Incoordination &amp; Dyssynergia</String></Term>
      </TermList>
    </Concept>
    <Concept PreferredConceptYN="N"><ScopeNote>Of the limbs.</ScopeNote>
      <TermList><Term><String>Limb Ataxia</String></Term></TermList>
    </Concept>
  </ConceptList>
</DescriptorRecord>
"""
CANICOLA = """<SupplementalRecord SCRClass="3">
  <SupplementalRecordUI>C531604</SupplementalRecordUI>
  <SupplementalRecordName><String>Canicola fever</String></SupplementalRecordName>
  <Note>Caused by Leptospira.</Note>
  <HeadingMappedToList><HeadingMappedTo><DescriptorReferredTo><DescriptorUI>*D007922</DescriptorUI>
    <DescriptorName><String>Weil Disease</String></DescriptorName></DescriptorReferredTo></HeadingMappedTo>
  </HeadingMappedToList>
  <ConceptList><Concept PreferredConceptYN="Y">
    <TermList><Term><String>Canicola fever</String></Term><Term><String>Stuttgart disease</String></Term></TermList>
  </Concept></ConceptList>
</SupplementalRecord>
"""
DESCRIPTOR = Concept(
    "D001259",
    ("Ataxia", "Incoordination & Dyssynergia", "Limb Ataxia"),
    (),
    ("C", "E"),
    "Impairment of coordination.",
)


def descriptors(*records):
    return f'<DescriptorRecordSet LanguageCode = "eng">\n{"".join(records)}</DescriptorRecordSet>\n'


def supplement(*records):
    return f"<SupplementalRecordSet>\n{''.join(records)}</SupplementalRecordSet>\n"


@pytest.fixture
def read(tmp_path):
    def read_text(text):
        (tmp_path / "mesh.xml").write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_mesh(tmp_path / "mesh.xml")

    return read_text


def test_a_descriptor_becomes_a_concept(read):
    concepts, report = read(DECLARATION + DOCTYPE + descriptors(ATAXIA))
    assert concepts == [DESCRIPTOR]
    assert (report.read, report.used, report.skipped, report.repaired) == (1, 1, {}, {})


def test_a_supplementary_record_becomes_a_concept_of_its_class(read):
    concepts, _ = read(supplement(CANICOLA, CANICOLA.replace('"3"', '"1"').replace("C531604", "C1")))
    names = ("Canicola fever", "Stuttgart disease")
    assert concepts == [
        Concept("C531604", names, (), ("SCR_Disease",), "Caused by Leptospira."),
        Concept("C1", names, (), ("SCR_Chemical",), "Caused by Leptospira."),
    ]


@pytest.mark.parametrize("start", [DECLARATION + DOCTYPE, DECLARATION, "", "\ufeff" + DECLARATION, "<!-- MeSH -->\n"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_mesh_is_told_by_its_content(tmp_path, start, pack):
    (tmp_path / "kb").write_bytes(pack((start + descriptors(ATAXIA)).replace("\n", "\r\n").encode()))
    assert read_concepts(tmp_path / "kb")[0] == [DESCRIPTOR]


def test_another_xml_file_is_not_mesh(tmp_path):
    (tmp_path / "kb").write_text(DECLARATION + "<QualifierRecordSet/>")
    with pytest.raises(ValueError, match="it starts with '<.xml version.*Known: .*MeSH XML"):
        read_concepts(tmp_path / "kb")
    with pytest.raises(ValueError, match="kb:2: the root element is 'QualifierRecordSet', not one of Descriptor"):
        read_mesh(tmp_path / "kb")


@pytest.mark.parametrize(
    ("old", "new"), [("<DescriptorUI>D001259</DescriptorUI>", ""), ("<DescriptorUI>D001259", "<DescriptorUI> ")]
)
def test_a_record_without_id_is_skipped(read, old, new):
    _, report = read(descriptors(ATAXIA.replace(old, new)))
    assert (report.read, report.skipped) == (1, {"no concept id": 1})


def test_without_a_name_of_its_own_a_record_has_that_of_its_terms(read):
    concepts, _ = read(descriptors(ATAXIA.replace("<DescriptorName><String>Ataxia</String></DescriptorName>", "", 1)))
    assert concepts == [DESCRIPTOR]


def test_a_record_without_names_is_skipped_with_its_line(read):
    _, report = read(descriptors("<DescriptorRecord><DescriptorUI>D1</DescriptorUI></DescriptorRecord>"))
    assert report.skipped == {"no name": 1}
    assert report.examples["no name"][0].endswith("mesh.xml:2 'D1'")


def test_terms_said_twice_are_counted(read):
    _, report = read(descriptors(ATAXIA.replace("Limb Ataxia", "Incoordination &amp; Dyssynergia")))
    assert report.repaired == {"duplicate name dropped": 1}


BOMB = '<!DOCTYPE DescriptorRecordSet [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>\n'
LEAK = '<!DOCTYPE DescriptorRecordSet [<!ENTITY a SYSTEM "file:///etc/hostname">]>\n'
PADDING = '<!DOCTYPE DescriptorRecordSet [<!ATTLIST Term x CDATA "aaaaaaaaaaaaaaaaaaaaaaaaaa">]>\n'


@pytest.mark.parametrize("doctype", [BOMB, LEAK, PADDING])
def test_definitions_in_the_document_type_are_refused(read, doctype):
    with pytest.raises(ValueError, match=r"mesh.xml:2: the document type declaration defines entities or attributes"):
        read(DECLARATION + doctype + descriptors(ATAXIA))


@pytest.mark.parametrize("doctype", [DOCTYPE, ""])
def test_entities_that_are_not_defined_are_refused(read, doctype):
    with pytest.raises(ValueError, match=r"mesh.xml:\d+: .*(entity &beta; is not defined|undefined entity)"):
        read(doctype + descriptors(ATAXIA.replace("&amp;", "&beta;")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            DECLARATION + descriptors(ATAXIA).partition("</DescriptorRecordSet>")[0],
            r"mesh.xml:\d+: not well-formed XML in UTF-8 \(no element found",
        ),
        (DECLARATION + descriptors(ATAXIA.replace("</Concept>", "", 1)), r"mesh.xml:\d+: .*mismatched tag"),
        (descriptors(ATAXIA).encode().replace(b"Limb", b"L\xefmb"), r"mesh.xml:\d+: .*invalid token"),
        (descriptors(ATAXIA).encode().replace(b"Limb", b"L\0mb"), r"mesh.xml:\d+: .*invalid token"),
        (DECLARATION.replace("UTF-8", "latin-1") + descriptors(ATAXIA), "mesh.xml:1: the encoding 'latin-1' is not"),
        (DECLARATION.replace("UTF-8", "rot13") + descriptors(ATAXIA), "mesh.xml:1: the encoding 'rot13' is not"),
        ("", "mesh.xml:1: .*no element found"),
        (descriptors("<a>" * 99 + "</a>" * 99), "mesh.xml:2: elements nested more than 64 deep"),
    ],
)
def test_broken_files_are_refused_with_their_line(read, text, message):
    with pytest.raises(ValueError, match=message):
        read(text)


@pytest.mark.parametrize(
    ("begin", "end", "message"),
    [
        ("<!--", "-->", "a tag or comment of more than 16,777,216 bytes"),
        ("<DescriptorRecord><Note>", "</Note></DescriptorRecord>", "a record of more than 16,777,216 characters"),
        ('<DescriptorRecord a="', '"/>', "a tag or comment of more than 16,777,216 bytes"),
    ],
)
def test_a_bomb_in_gzip_ends_at_a_bound(tmp_path, begin, end, message):
    (tmp_path / "mesh.xml").write_bytes(gzip.compress(descriptors(begin + "a" * (17 << 20) + end).encode(), 1))
    with pytest.raises(ValueError, match=re.escape(message)):
        read_mesh(tmp_path / "mesh.xml")
